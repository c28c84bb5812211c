//! Text to train on, byte by byte: a token is a byte.
//!
//! In: files and folders, or the source text that cargo left on this machine. Out: sequences and their next bytes.
//!
//! Invariant: a sample depends on the text, the seed, the step and its index alone, never on the plan or on what was
//! drawn before; and no training sample touches the tail that is held out for validation.

use std::fs;
use std::path::{Path, PathBuf};

use meshwright_hardware::files::{FileError, read_bytes};

use crate::error::ExecutorError;
use crate::random::mixed;

/// How many different tokens there are.
pub const VOCAB: usize = 256;

/// The text found on a machine is cut off here, in bytes: enough that a demo never sees a sequence twice.
const FOUND_LIMIT: usize = 32 << 20;

/// The largest file that is read: text lies in memory.
const MOST_BYTES: u64 = 16 << 30;

/// The held-out tail is one part in so many.
const VALIDATION_PART: usize = 50;

/// Text in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// Where it is from, for people.
    pub origin: String,
    /// All of it: the files one after another.
    pub bytes: Vec<u8>,
}

impl Corpus {
    /// Reads files, and folders with all that lies in them in the order of the names; files in folders that are not
    /// text (that hold a NUL byte) are passed over.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] naming the path that is not text, or if there is no text at all; [`ExecutorError::File`] if
    /// something is missing or cannot be read.
    pub fn from_paths(paths: &[PathBuf]) -> Result<Corpus, ExecutorError> {
        let origin = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let mut bytes = Vec::new();
        for path in paths {
            if fs::metadata(path).map_err(FileError::read(path))?.is_dir() {
                for file in files_below(path)? {
                    append(&mut bytes, &file)?;
                }
            } else if !append(&mut bytes, path)? {
                return Err(bad_text(path.display(), "it is not text: it has NUL bytes"));
            }
        }
        if bytes.is_empty() {
            return Err(bad_text(&origin, "there is no text in it"));
        }
        Ok(Corpus { origin, bytes })
    }

    /// Real text on this machine: the Rust sources and documents in cargo's registry, in the order of the names, up to
    /// 32 MiB; where there are none, `fallback`.
    pub fn find(fallback: &str) -> Corpus {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let found = home.and_then(|home| Corpus::from_sources(&home.join("registry").join("src"), FOUND_LIMIT));
        found.unwrap_or_else(|| Corpus { origin: "built-in text".to_owned(), bytes: fallback.as_bytes().to_vec() })
    }

    /// The `.rs` and `.md` files below a folder; nothing if there are none. What cannot be read is as good as not there.
    fn from_sources(folder: &Path, limit: usize) -> Option<Corpus> {
        let mut bytes = Vec::new();
        for file in files_below(folder).ok()? {
            let is_source = file.extension().is_some_and(|extension| extension == "rs" || extension == "md");
            if is_source && bytes.len() < limit {
                // An unreadable file adds nothing, which is what is wanted.
                let _ = append(&mut bytes, &file);
            }
        }
        bytes.truncate(limit);
        (!bytes.is_empty()).then(|| Corpus { origin: folder.display().to_string(), bytes })
    }

    /// Whether sequences of `seq` tokens can be drawn, for training and for validation.
    ///
    /// # Errors
    /// [`ExecutorError::BadInput`] with the length that is needed.
    pub fn check(&self, seq: usize) -> Result<(), ExecutorError> {
        let (have, need) = (self.bytes.len(), seq.saturating_add(1).saturating_mul(2));
        if have < need {
            let why = format!("it has {have} bytes, and sequences of {seq} tokens need at least {need}");
            return Err(bad_text(&self.origin, &why));
        }
        Ok(())
    }

    /// What tells this text from others: CRC-32 (IEEE 802.3) of all of it.
    pub fn crc32(&self) -> u32 {
        crc32fast::hash(&self.bytes)
    }

    /// Entropy of single bytes, in nats a byte: the loss of a model that has learned how often each occurs and no more.
    pub fn unigram_entropy(&self) -> f64 {
        let mut counts = [0u64; VOCAB];
        self.bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        let share = |&count: &u64| count as f64 / self.bytes.len() as f64;
        counts.iter().filter(|&&count| count > 0).map(share).map(|p| -p * p.ln()).sum()
    }

    /// Sample `index` of a step: token ids and targets, `seq` each, from a place drawn for (seed, step, index).
    ///
    /// # Panics
    /// If the text is too short for `seq`, which [`Corpus::check`] tells.
    pub fn sample(&self, seed: u64, step: usize, index: usize, seq: usize) -> (Vec<u32>, Vec<u32>) {
        let random = [step as u64, index as u64].iter().fold(mixed(seed), |key, &part| mixed(key ^ part));
        let places = self.training_bytes(seq) - seq;
        // The high half of the product spreads 64 random bits evenly over the places.
        let place = (u128::from(random) * places as u128) >> 64;
        self.sequence(place as usize, seq)
    }

    /// Held-out sequence `index`: token ids and targets, `seq` each. One lies after another; past the end they start again.
    ///
    /// # Panics
    /// If the text is too short for `seq`, which [`Corpus::check`] tells.
    pub fn validation_sample(&self, index: usize, seq: usize) -> (Vec<u32>, Vec<u32>) {
        let start = self.training_bytes(seq);
        let sequences = (self.bytes.len() - start - 1) / seq;
        self.sequence(start + index % sequences * seq, seq)
    }

    /// Where the held-out tail starts: the last 2 %, or one sequence and its last target if that is more.
    fn training_bytes(&self, seq: usize) -> usize {
        let held_out = (self.bytes.len() / VALIDATION_PART).max(seq + 1);
        let training = self.bytes.len().saturating_sub(held_out);
        assert!(training > seq, "{} bytes of text are too few for sequences of {seq} tokens", self.bytes.len());
        training
    }

    fn sequence(&self, start: usize, seq: usize) -> (Vec<u32>, Vec<u32>) {
        let ids = |from: usize| self.bytes[from..from + seq].iter().map(|&byte| u32::from(byte)).collect();
        (ids(start), ids(start + 1))
    }
}

/// Every file below a folder, in the order of the names. Links to folders are not followed, for they may lead in circles.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, ExecutorError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = entries.map_err(FileError::read(folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(FileError::read(&path))?.is_dir() {
            files.extend(files_below(&path)?);
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Adds a file that is text, with a line's end to part it from the next one; tells whether it is text.
fn append(bytes: &mut Vec<u8>, file: &Path) -> Result<bool, ExecutorError> {
    let text = read_bytes(file, MOST_BYTES)?;
    let is_text = !text.contains(&0);
    if is_text && !text.is_empty() {
        bytes.extend_from_slice(&text);
        if text.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
    }
    Ok(is_text)
}

fn bad_text(place: impl ToString, why: &str) -> ExecutorError {
    ExecutorError::bad_input("text", place.to_string(), why, "give files or folders of plain text, long enough")
}

/// Hides `masked` of a sequence's tokens: of these, 80 % become the vocabulary's last token, 10 % any, 10 % stay (Devlin et
/// al. 2019, §3.1). Only they have a target; the others have none, `u32::MAX`.
pub fn mask(mut tokens: Vec<u32>, masked: usize, vocab: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut targets = vec![u32::MAX; tokens.len()];
    let mut places: Vec<usize> = (0..tokens.len()).collect();
    let mut state = mixed(seed);
    let mut below = |n: usize| {
        state = mixed(state);
        ((u128::from(state) * n as u128) >> 64) as usize
    };
    for i in 0..masked.min(tokens.len()) {
        let left = places.len() - i;
        places.swap(i, i + below(left));
        let at = places[i];
        targets[at] = tokens[at];
        tokens[at] = match below(10) {
            0 => below(vocab) as u32,
            1 => tokens[at],
            _ => vocab as u32 - 1,
        };
    }
    (tokens, targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's own, empty.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("meshwright-data-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Bytes whose value tells where they are, modulo 251.
    fn counting(len: usize) -> Corpus {
        Corpus { origin: "counting".to_owned(), bytes: (0..len).map(|i| (i % 251) as u8).collect() }
    }

    #[test]
    fn a_folder_gives_its_text_in_the_order_of_names() {
        let root = folder("order");
        fs::create_dir(root.join("b")).unwrap();
        fs::write(root.join("c.txt"), "third\n").unwrap();
        fs::write(root.join("b/inner.txt"), "second").unwrap();
        fs::write(root.join("a.txt"), "first\n").unwrap();
        fs::write(root.join("image"), b"\x89PNG\0").unwrap();
        let corpus = Corpus::from_paths(std::slice::from_ref(&root)).unwrap();
        assert_eq!(String::from_utf8(corpus.bytes).unwrap(), "first\nsecond\nthird\n");
        let sources = Corpus::from_sources(&root, 100);
        assert_eq!(sources, None, "no .rs and no .md");
        fs::write(root.join("b/lib.rs"), "fn main() {}").unwrap();
        assert_eq!(Corpus::from_sources(&root, 5).unwrap().bytes, b"fn ma");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_wrong_with_the_text_is_said_with_its_path() {
        let root = folder("wrong");
        let refused = |paths: &[PathBuf], code: u8, why: &str| {
            let error = Corpus::from_paths(paths).unwrap_err();
            let text = error.to_string();
            let named = paths.last().is_none_or(|path| text.contains(&path.display().to_string()));
            assert!(error.exit_code() == code && named && text.contains(why), "{text}");
        };
        refused(&[root.join("missing")], 1, "no such file");
        refused(std::slice::from_ref(&root), 2, "no text");
        refused(&[], 2, "no text");
        if cfg!(unix) {
            refused(&[PathBuf::from("/dev/zero")], 1, "no plain file");
        }
        fs::write(root.join("weights.bin"), [1, 0, 2]).unwrap();
        refused(&[root.join("weights.bin")], 2, "NUL");
        fs::write(root.join("short.txt"), "short\n").unwrap();
        let short = Corpus::from_paths(&[root.join("short.txt")]).unwrap();
        assert!(short.check(2).is_ok());
        let error = short.check(3).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("6 bytes"), "{error}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn targets_are_the_next_bytes_and_a_sample_is_its_numbers_alone() {
        let corpus = counting(10_000);
        let (ids, targets) = corpus.sample(7, 3, 5, 64);
        assert_eq!((ids.len(), &ids[1..]), (64, &targets[..63]));
        assert_eq!(targets[63], (ids[63] + 1) % 251);
        assert_eq!(corpus.sample(7, 3, 5, 64), (ids.clone(), targets));
        for other in [corpus.sample(8, 3, 5, 64), corpus.sample(7, 4, 5, 64), corpus.sample(7, 3, 6, 64)] {
            assert_ne!(other.0, ids);
        }
    }

    #[test]
    fn samples_cover_the_training_text_and_never_the_held_out_tail() {
        let mut corpus = counting(1_000);
        corpus.bytes[980..].fill(255);
        let mut seen = [0; 4];
        for step in 0..1_000 {
            let (ids, targets) = corpus.sample(1, step, 0, 1);
            assert!(ids[0] != 255 && targets[0] != 255);
            seen[ids[0] as usize * 4 / 251] += 1;
        }
        assert!(seen.iter().all(|&count| count > 150), "{seen:?}");
        for index in 0..5 {
            assert_eq!(corpus.validation_sample(index, 9), (vec![255; 9], vec![255; 9]));
        }
    }

    #[test]
    fn held_out_sequences_follow_one_another_and_start_again() {
        let corpus = counting(1_000);
        let first = corpus.validation_sample(0, 6);
        assert_eq!(first.0[0] as usize, 980 % 251);
        assert_eq!(corpus.validation_sample(1, 6).0[0], first.1[5]);
        assert_eq!(corpus.validation_sample(3, 6), first);
        // The least that `check` lets through is enough for both.
        let least = counting(2 * 65);
        assert!(least.check(64).is_ok());
        assert_eq!((least.sample(0, 0, 0, 64).0[0], least.validation_sample(9, 64).0[0]), (0, 65));
    }

    #[test]
    fn entropy_is_that_of_the_frequencies() {
        let of = |bytes: &[u8]| Corpus { origin: String::new(), bytes: bytes.to_vec() }.unigram_entropy();
        assert!((of(b"abab") - 2f64.ln()).abs() < 1e-12);
        assert!(of(b"aaaa").abs() < 1e-12);
    }

    #[test]
    fn where_there_is_no_cargo_registry_the_fallback_is_the_text() {
        assert!(!Corpus::find("some words").bytes.is_empty());
        assert_eq!(Corpus::from_sources(Path::new("/nonexistent"), 10), None);
    }

    #[test]
    fn a_fixed_number_of_tokens_is_masked_and_has_targets() {
        let (tokens, targets) = mask((0..100).collect(), 15, 256, 7);
        let hidden: Vec<usize> = (0..100).filter(|&i| targets[i] != u32::MAX).collect();
        assert_eq!(hidden.len(), 15);
        assert!(hidden.iter().all(|&i| targets[i] == i as u32));
        assert!((0..100).all(|i| tokens[i] == i as u32 || hidden.contains(&i)));
        assert!(hidden.iter().filter(|&&i| tokens[i] == 255).count() >= 8);
        assert_eq!(mask((0..100).collect(), 15, 256, 7), (tokens, targets));
    }
}
