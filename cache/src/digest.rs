//! The identity of bytes: a BLAKE3 hash.

mod blocks;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How much of a file is held in memory at once: enough for the widest vector unit to stay busy.
pub(crate) const BLOCK: usize = 1 << 18;
const SMALL_BLOCK: usize = 1 << 13;

/// A 32-byte BLAKE3 hash. Displayed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file's content. Big files are read and hashed on all cores.
    ///
    /// # Errors
    /// When the file cannot be read, or becomes shorter meanwhile.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        Ok(Self::and_length_of(path)?.0)
    }

    /// The digest and the length of a file.
    pub(crate) fn and_length_of(path: &Path) -> io::Result<(Self, u64)> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        // What says that it is empty may be made as it is read, like the files of `/proc`.
        if !metadata.is_file() || metadata.len() == 0 {
            return Self::of_copy(&mut file, &mut io::sink());
        }
        let digest = blocks::digest(metadata.len(), &|start, block| file.read_exact_at(block, start))?;
        Ok((digest, metadata.len()))
    }

    /// Copies a file, each block being hashed as it passes; gives the digest and the length of what was
    /// copied.
    pub(crate) fn of_file_copy(source: &mut File, target: &mut File) -> io::Result<(Self, u64)> {
        let metadata = source.metadata()?;
        if !metadata.is_file() || metadata.len() <= BLOCK as u64 {
            return Self::of_copy(source, target);
        }
        let (source, target) = (&*source, &*target);
        let digest = blocks::digest(metadata.len(), &|start, block| {
            source.read_exact_at(block, start)?;
            target.write_all_at(block, start)
        })?;
        Ok((digest, metadata.len()))
    }

    /// Copies everything from `reader` to `writer`; gives the digest and the length of what passed.
    pub(crate) fn of_copy(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<(Self, u64)> {
        let mut hasher = blake3::Hasher::new();
        // Most files are small, and clearing memory for a whole block would cost more than they do.
        let mut block = vec![0; SMALL_BLOCK];
        loop {
            if block.len() < BLOCK && hasher.count() > 0 {
                block.resize(BLOCK, 0);
            }
            match reader.read(&mut block) {
                Ok(0) => return Ok((Self::from_hasher(&hasher), hasher.count())),
                Ok(read) => {
                    hasher.update(&block[..read]);
                    writer.write_all(&block[..read])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A digest from a finished hasher.
    #[must_use]
    pub fn from_hasher(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }

    /// A digest from its raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({})", self.short())
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest (64 hexadecimal digits)")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| NotADigest(text.to_owned()))?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Digest;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a digest")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_published_blake3_vector() {
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").short(), "af1349b9");
    }

    #[test]
    fn file_has_the_digest_of_its_bytes_whatever_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let copy = folder.path().join("copy");
        let lengths =
            [0, 1, 1023, 1025, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 8 * BLOCK, 21 * BLOCK + 1];
        for length in lengths {
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(Digest::of_file(&path).unwrap(), Digest::of(&bytes), "{length} bytes");
            let mut target = File::create(&copy).unwrap();
            let copied = Digest::of_file_copy(&mut File::open(&path).unwrap(), &mut target).unwrap();
            assert_eq!(copied, (Digest::of(&bytes), length as u64), "{length} bytes");
            assert!(std::fs::read(&copy).unwrap() == bytes, "{length} bytes");
        }
        assert_eq!(Digest::of_file(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn copy_gives_the_digest_and_length_of_what_was_copied() {
        let mut copied = Vec::new();
        let (digest, length) = Digest::of_copy(&mut &b"content"[..], &mut copied).unwrap();
        assert_eq!((digest, length, copied.as_slice()), (Digest::of(b"content"), 7, &b"content"[..]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_says_nothing_of_its_length_is_read_to_its_end() {
        let (digest, length) = Digest::and_length_of(Path::new("/proc/self/cmdline")).unwrap();
        let bytes = std::fs::read("/proc/self/cmdline").unwrap();
        assert_eq!((digest, length), (Digest::of(&bytes), bytes.len() as u64));
    }

    #[test]
    fn text_that_is_not_64_digits_is_refused() {
        for text in ["", "af13", &"g".repeat(64), &"a".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<Digest>().unwrap_err().to_string().contains(text));
        }
    }

    #[test]
    fn json_holds_the_digits() {
        let json = serde_json::to_string(&Digest::of(b"x")).unwrap();
        assert_eq!(json, format!("\"{}\"", Digest::of(b"x")));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b"x"));
        assert!(serde_json::from_str::<Digest>("\"af\"").is_err());
    }
}
