//! `plan --keys`: what a job file may say.
//!
//! In: [`JobKey`]s. Out: lines for people, table by table, as a file has them.

use meshwright_planner::job::{JobKey, job_keys};

/// Prints every key of a job file.
pub fn print_keys() {
    println!("# Every key of a job file (TOML), what it may be, and what it is where it is left out.");
    let mut table = String::new();
    for JobKey { table: own, name, values, default, needed, about } in job_keys() {
        if own != table {
            println!("\n[{own}]");
            table = own;
        }
        let otherwise = match default.as_str() {
            _ if needed => "   needed".to_owned(),
            "" => String::new(),
            default => format!("   default {default}"),
        };
        println!("{name} = {values}{otherwise}\n    # {about}");
    }
}
