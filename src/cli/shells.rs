//! `completions` and `man`: the command line as shells and manuals have it.
//!
//! In: the command's own arguments. Out: a script for a shell, or pages in roff.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use meshwright_hardware::files::FileError;

use crate::failure::Failure;
use crate::out::write_whole;

/// Arguments of `completions`.
#[derive(Args)]
pub struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "meshwright", &mut script);
        print!("{}", String::from_utf8_lossy(&script));
        Ok(())
    }
}

/// Arguments of `man`.
#[derive(Args)]
pub struct ManCommand {
    /// Folder to write a page to for the command and for each of its subcommands; without it the command's is printed
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl ManCommand {
    /// Prints a page, or writes them all.
    pub fn run(self, mut command: Command) -> Result<(), Failure> {
        command.build();
        let Some(folder) = &self.output else {
            print!("{}", page(&command));
            return Ok(());
        };
        std::fs::create_dir_all(folder).map_err(FileError::write(folder))?;
        let count = write(&command, "meshwright", folder)?;
        println!("{count} pages in {0}: man -l {0}/meshwright.1", folder.display());
        Ok(())
    }
}

fn page(command: &Command) -> String {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).expect("a vector takes what is written");
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes a command's page and those of what stands below it; how many.
fn write(command: &Command, name: &str, folder: &Path) -> Result<usize, Failure> {
    write_whole(&folder.join(format!("{name}.1")), &page(command))?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    let counts = below.map(|below| write(below, &format!("{name}-{}", below.get_name()), folder));
    counts.sum::<Result<usize, Failure>>().map(|below| below + 1)
}
