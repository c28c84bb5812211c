//! Text files that a user names: profiles, models, jobs, plans, tables of runs.
//!
//! In: a path. Out: its text, or why it cannot be read.
//!
//! Invariant: reading ends, and takes little memory, whatever the path names.

use std::fs::{self, File};
use std::io::{Error, Read, Result};
use std::path::Path;

/// The largest file that is read: many times what a plan, a configuration or a table of published runs needs.
const MOST_BYTES: u64 = 4 << 20;

/// The text of a plain file, or of what a link to one leads to. A pipe could wait for ever, and a device never end.
///
/// # Errors
/// The operating system's, or one that says that the file is none, too large, or no text.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    if !fs::metadata(path)?.is_file() {
        return Err(Error::other("it is no plain file but a folder, device or pipe; give a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::other(format!("it has more than the {} MiB that such files may have", MOST_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        Error::other(format!("it is no text in UTF-8 at line {line}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_text_are_read() {
        let folder = std::env::temp_dir().join(format!("meshwright-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, bytes: &[u8]| {
            fs::write(folder.join(name), bytes).unwrap();
            read_text(folder.join(name)).map_err(|error| error.to_string())
        };
        assert_eq!(file("good", "a\nü".as_bytes()).unwrap(), "a\nü");
        assert!(file("bad", b"a\nb\n\xff").unwrap_err().contains("line 3"));
        assert!(read_text(&folder).unwrap_err().to_string().contains("no plain file"));
        assert_eq!(read_text(folder.join("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        File::create(folder.join("large")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(read_text(folder.join("large")).unwrap_err().to_string().contains("4 MiB"));
        fs::remove_dir_all(folder).unwrap();
    }
}
