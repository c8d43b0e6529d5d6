//! Reading single tensors from a safetensors file, without keeping the file in memory.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::EmbedError;

/// The header of a file with a hundred tensors takes about 10 kB.
const LONGEST_HEADER: u64 = 1 << 20;

/// An open safetensors file.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    tensors: HashMap<String, Entry>,
    data_start: u64,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl TensorFile {
    /// Opens the file and checks that its header describes exactly the bytes that follow.
    pub fn open(path: &Path) -> Result<Self, EmbedError> {
        let unreadable = |source| EmbedError::Unreadable { path: path.into(), source };
        let damaged = |reason: String| EmbedError::Damaged { path: path.into(), reason };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut prefix = [0; 8];
        if length < 8 {
            return Err(damaged(format!("{length} bytes are too few for a header")));
        }
        file.read_exact_at(&mut prefix, 0).map_err(unreadable)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > LONGEST_HEADER.min(length - 8) {
            return Err(damaged(format!("its header claims {header_length} bytes")));
        }
        let mut header = vec![0; usize::try_from(header_length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut header, 8).map_err(unreadable)?;
        let tensors =
            parse_header(&header).map_err(|source| EmbedError::Json { path: path.into(), source })?;
        let data_start = 8 + header_length;
        let end = tensors.values().map(|t| t.data_offsets[1]).max().unwrap_or(0);
        if data_start.checked_add(end) != Some(length) {
            return Err(damaged(format!(
                "it has {length} bytes, its header describes {}",
                data_start.saturating_add(end)
            )));
        }
        Ok(Self { path: path.into(), file, tensors, data_start })
    }

    /// The tensor `name` (row-major), which must have the given shape and hold 32-bit floats.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let offset = self.locate(name, shape)?;
        let mut bytes = vec![0; shape.iter().product::<usize>() * size_of::<f32>()];
        read_floats(&self.file, &self.path, offset, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The table `name` of `rows` × `N` floats, whose rows stay in the file.
    pub fn into_table<const N: usize>(self, name: &str, rows: usize) -> Result<Table<N>, EmbedError> {
        let offset = self.locate(name, &[rows, N])?;
        Ok(Table { path: self.path, file: self.file, offset })
    }

    /// Where the tensor begins in the file.
    fn locate(&self, name: &str, shape: &[usize]) -> Result<u64, EmbedError> {
        let other = |found: String| EmbedError::OtherModel {
            path: self.path.clone(),
            what: format!("tensor {name}"),
            found,
            expected: format!("F32 {shape:?}"),
        };
        let entry = self.tensors.get(name).ok_or_else(|| other("absent".into()))?;
        if entry.dtype != "F32" || entry.shape != shape {
            return Err(other(format!("{} {:?}", entry.dtype, entry.shape)));
        }
        let [start, end] = entry.data_offsets;
        let bytes = shape.iter().product::<usize>() * size_of::<f32>();
        if end.checked_sub(start) != u64::try_from(bytes).ok() {
            return Err(other(format!("stored at bytes {start} to {end}")));
        }
        Ok(self.data_start + start)
    }
}

/// The entries of a header. The key `__metadata__` names no tensor.
fn parse_header(json: &[u8]) -> serde_json::Result<HashMap<String, Entry>> {
    let mut header: HashMap<String, serde_json::Value> = serde_json::from_slice(json)?;
    header.remove("__metadata__");
    header.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value)?))).collect()
}

fn read_floats(file: &File, path: &Path, offset: u64, bytes: &mut [u8]) -> Result<(), EmbedError> {
    file.read_exact_at(bytes, offset).map_err(|source| EmbedError::Unreadable { path: path.into(), source })
}

/// A table that is read row by row where it lies: the operating system's page cache holds the part in
/// use, and the process does not.
pub struct Table<const N: usize> {
    path: PathBuf,
    file: File,
    offset: u64,
}

impl<const N: usize> Table<N> {
    /// One row; `index` must be below the number of rows.
    pub fn row(&self, index: u32) -> Result<[f32; N], EmbedError> {
        let mut bytes = [[0; size_of::<f32>()]; N];
        let width = bytes.as_flattened().len() as u64;
        read_floats(
            &self.file,
            &self.path,
            self.offset + u64::from(index) * width,
            bytes.as_flattened_mut(),
        )?;
        Ok(bytes.map(f32::from_le_bytes))
    }
}
