//! The files of a checkpoint: tensors as safetensors, checksums, and writing that survives a power cut.
//!
//! In: a rank's tensors. Out: bytes, or the reverse; bytes on disk.
//!
//! Invariant: decoding what was encoded gives the same bits, NaN payloads included.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use meshwright_hardware::files::FileError;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::RankTensors;
use crate::error::ExecutorError;

/// The key of the rank in a file's metadata.
const RANK: &str = "rank";

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    bytes: u64,
    /// CRC-32 (IEEE 802.3).
    crc32: u32,
}

impl FileRecord {
    pub(super) fn of(bytes: &[u8]) -> FileRecord {
        FileRecord { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }

    /// Says in what way the bytes are not those recorded.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let found = FileRecord::of(bytes);
        if found.bytes != self.bytes {
            return Err(format!("it has {} bytes where {} were written", found.bytes, self.bytes));
        }
        if found.crc32 != self.crc32 {
            return Err(format!("its checksum is {:08x} where {:08x} was written", found.crc32, self.crc32));
        }
        Ok(())
    }
}

/// A flat tensor, turned into bytes only when its turn comes.
struct Flat<'a>([usize; 1], &'a [f32]);

impl View for Flat<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.1.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.1)
    }
}

/// A safetensors file of a rank.
pub(super) fn encode(rank: &RankTensors) -> Vec<u8> {
    let tensors = rank.tensors.iter().map(|(name, values)| (name, Flat([values.len()], values)));
    let metadata = HashMap::from([(RANK.to_owned(), rank.rank.to_string())]);
    safetensors::serialize(tensors, Some(metadata)).expect("flat tensors of f32 can be written")
}

/// A rank from its safetensors file, or what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<RankTensors, String> {
    let broken = |e: safetensors::SafeTensorError| format!("it is not a safetensors file: {e}");
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let rank = metadata.metadata().as_ref().and_then(|pairs| pairs.get(RANK)?.parse().ok());
    let rank = rank.ok_or("it does not say which rank it is of")?;
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        if view.dtype() != Dtype::F32 {
            return Err(format!("tensor {name} is {:?} where F32 was written", view.dtype()));
        }
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        Ok((name, view.data().chunks_exact(4).map(value).collect()))
    };
    let views = SafeTensors::deserialize(bytes).map_err(broken)?.tensors();
    let mut tensors = views.into_iter().map(tensor).collect::<Result<Vec<(String, Vec<f32>)>, _>>()?;
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(RankTensors { rank, tensors })
}

/// Writes a file and waits until it is on disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), ExecutorError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    Ok(write().map_err(FileError::write(path))?)
}

/// Waits until the names in a folder are on disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), ExecutorError> {
    // Elsewhere a folder cannot be opened as a file, and renames are ordered by the system.
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(FileError::write(path))?;
    }
    Ok(())
}
