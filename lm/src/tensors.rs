//! Safetensors files.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bstar_stages::config::Precision;
use bstar_stages::protocol::StageError;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, View};
use tch::{Device, Kind, Tensor};

use crate::error::{Result, io, torch};

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// The numbers that a model computes in.
pub(crate) fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::Float32 => Kind::Float,
        Precision::Bfloat16 => Kind::BFloat16,
    }
}

/// A tensor on its way into a file: its bytes are made when they are written, so that at most one
/// tensor is in memory twice.
struct Outgoing<'a> {
    tensor: &'a Tensor,
    kind: (Kind, Dtype),
    shape: Vec<usize>,
    /// What went wrong in a place that cannot tell.
    trouble: &'a RefCell<Option<tch::TchError>>,
}

impl View for &Outgoing<'_> {
    fn dtype(&self) -> Dtype {
        self.kind.1
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut data = vec![0; self.data_len()];
        let mut copy = || {
            let tensor = self.tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(self.kind.0)?;
            tensor.f_contiguous()?.f_copy_data_u8(&mut data, self.tensor.numel())
        };
        if let Err(error) = copy() {
            *self.trouble.borrow_mut() = Some(error);
        }
        Cow::Owned(data)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.kind.0.elt_size_in_bytes()
    }
}

/// Writes tensors as numbers of this kind (32-bit or 16-bit floats) to a safetensors file; equal
/// tensors make equal files.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    kind: Kind,
    extra: Option<(&str, String)>,
) -> Result<()> {
    let trouble = RefCell::new(None);
    let dtype = match kind {
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        _ => Dtype::F32,
    };
    let all: BTreeMap<String, Outgoing<'_>> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let shape = tensor.size().iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
            (name, Outgoing { tensor, kind: (kind, dtype), shape, trouble: &trouble })
        })
        .collect();
    let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    if let Some((key, value)) = extra {
        drop(metadata.insert(key.to_owned(), value));
    }
    let written = safetensors::serialize_to_file(&all, Some(metadata), path);
    if let Some(error) = trouble.take() {
        return Err(torch(&error));
    }
    written.map_err(|error| match error {
        safetensors::SafeTensorError::IoError(error) => io("write", path)(error),
        other => StageError::failed(format!("cannot write `{}`: {other}", path.display())),
    })
}

/// A safetensors file in memory, as far as it is looked at.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    start: usize,
}

impl std::fmt::Debug for TensorFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TensorFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it cannot be read, is not of that format, or is shorter than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(io("read", path))?;
        #[expect(unsafe_code, reason = "a map of a file that nobody writes: inputs are read-only")]
        let map = unsafe { Mmap::map(&file) }.map_err(io("read", path))?;
        let (length, header) =
            SafeTensors::read_metadata(&map).map_err(|error| unreadable(path, &map, &error))?;
        Ok(Self { path: path.to_owned(), map, header, start: 8 + length })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.map.len()
    }

    /// What its writer noted beside the tensors.
    #[must_use]
    pub fn notes(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    /// Names, shapes and kinds of numbers, in the order of the names.
    #[must_use]
    pub fn list(&self) -> BTreeMap<String, (Vec<i64>, Dtype)> {
        let tensors = self.header.tensors().into_iter();
        tensors.map(|(name, info)| (name, (shape(info), info.dtype))).collect()
    }

    /// A tensor, as numbers of `kind` on a device.
    ///
    /// # Errors
    /// When there is none of that name, its numbers are not 32- or 16-bit floats, or memory is short.
    pub fn read(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        let error = |what: String| {
            StageError::invalid(format!("tensor `{name}` in `{}`: {what}", self.path.display()))
        };
        let info = self.header.info(name).ok_or_else(|| error("is missing".to_owned()))?;
        let stored = match info.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => {
                return Err(error(format!("numbers of type {other} are not supported"))
                    .hint("use the checkpoint in bfloat16, float16 or float32"));
            }
        };
        let (shape, (from, to)) = (shape(info), info.data_offsets);
        let data = &self.map[self.start + from..self.start + to];
        let read = || Tensor::f_from_data_size(data, &shape, stored)?.f_to_device(device)?.f_to_kind(kind);
        read().map_err(|error| torch(&error))
    }
}

fn shape(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect()
}

/// Why a file is no safetensors file.
fn unreadable(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> StageError {
    use safetensors::SafeTensorError as E;
    let path = path.display();
    if bytes.starts_with(b"version https://git-lfs") {
        return StageError::invalid(format!("`{path}` is a Git LFS pointer, not the file itself"))
            .hint("fetch the file with `git lfs pull`");
    }
    let again = "copy or download it again";
    match error {
        E::MetadataIncompleteBuffer => StageError::invalid(format!(
            "`{path}` is truncated or damaged: its {} bytes are not as many as its header says",
            bytes.len()
        ))
        .hint(again),
        E::HeaderTooSmall | E::InvalidHeaderLength if bytes.len() < 8 || bytes.get(8) == Some(&b'{') => {
            StageError::invalid(format!("`{path}` is truncated within its header: {} bytes", bytes.len()))
                .hint(again)
        }
        other => StageError::invalid(format!("`{path}` is not a safetensors file: {other}")),
    }
}

/// Reads all tensors of a safetensors file as 32-bit floats, and its notes.
///
/// # Errors
/// When the file cannot be read or is not of that format.
pub fn read_tensors(path: &Path, device: Device) -> Result<(Tensors, HashMap<String, String>)> {
    let file = TensorFile::open(path)?;
    let read = |name: String| Ok((name.clone(), file.read(&name, Kind::Float, device)?));
    let tensors = file.list().into_keys().map(read).collect::<Result<_>>()?;
    Ok((tensors, file.notes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_written_in_the_kind_asked_for_and_read_in_any() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = (Tensor::arange(24, (Kind::Float, Device::Cpu)) * 0.37 - 4.0).view([4, 6]);
        for (kind, bytes) in [(Kind::Float, 4), (Kind::BFloat16, 2), (Kind::Half, 2)] {
            let path = folder.path().join("t.safetensors");
            // A view that is not contiguous.
            write_tensors(&path, [("t".to_owned(), &tensor.tr())], kind, Some(("note", "x".to_owned())))
                .unwrap();
            let file = TensorFile::open(&path).unwrap();
            assert_eq!(file.notes()["note"], "x");
            assert_eq!(file.list()["t"].0, [6, 4]);
            assert!(file.size() > 24 * bytes && file.size() < 24 * bytes + 200);
            for read in [Kind::Float, Kind::BFloat16] {
                let expected = tensor.tr().to_kind(kind).to_kind(read);
                assert!(file.read("t", read, Device::Cpu).unwrap().equal(&expected));
            }
        }
    }

    #[test]
    fn broken_files_say_how_they_are_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let tensor = Tensor::zeros([100], (Kind::Float, Device::Cpu));
        write_tensors(&path, [("t".to_owned(), &tensor)], Kind::Float, None).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for (bytes, expected) in [
            (&whole[..whole.len() - 10], "is truncated or damaged: its"),
            (&whole[..20], "is truncated within its header: 20 bytes"),
            (&whole[..3], "is truncated within its header: 3 bytes"),
            (&b"version https://git-lfs.github.com/spec/v1\n"[..], "is a Git LFS pointer"),
            (&b"nonsense, but long enough to look like something"[..], "is not a safetensors file"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = TensorFile::open(&path).unwrap_err();
            assert!(error.message.contains(expected), "{error}");
        }
        let missing = TensorFile::open(&folder.path().join("none")).unwrap_err();
        assert!(missing.message.contains("cannot read"), "{missing}");
    }
}
