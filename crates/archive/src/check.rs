//! What comes from elsewhere is looked at as it passes: whether it is an archive, and a whole one.

use std::io::{self, Error, ErrorKind};

use zstd::stream::raw::{DParameter, Decoder, Operation};

/// Most memory that an archive may ask of whoever decodes it, as a power of two: far more than [`pack`](crate::pack) asks.
const WINDOW_LOG: u32 = 24;
/// Bytes decoded at a time.
const PIECE: usize = 128 << 10;
/// A tar archive is made of blocks, and ends with two of zeros.
const BLOCK: usize = 512;
const END: u64 = 2 * BLOCK as u64;

/// A check of an archive, piece by piece: that it decodes to its end, begins as a tar archive does and ends as one.
///
/// What is in it, and where that would be written, is for whoever unpacks it.
pub struct Check {
    decoder: Decoder<'static>,
    decoded: Box<[u8]>,
    /// Whether the last frame is complete.
    whole: bool,
    first: Vec<u8>,
    size: u64,
    /// Zeros at the end so far.
    zeros: u64,
    most: u64,
}

impl Check {
    /// A check of an archive that decodes to at most so many bytes.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(most: u64) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        let decoded = vec![0; PIECE].into_boxed_slice();
        Ok(Self { decoder, decoded, whole: true, first: Vec::new(), size: 0, zeros: 0, most })
    }

    /// Looks at the next piece.
    ///
    /// # Errors
    /// When this is no archive.
    pub fn add(&mut self, mut piece: &[u8]) -> io::Result<()> {
        loop {
            if self.whole {
                if piece.is_empty() {
                    return Ok(());
                }
                self.decoder.reinit()?;
            }
            let status = self.decoder.run_on_buffers(piece, &mut self.decoded)?;
            self.whole = status.remaining == 0;
            piece = &piece[status.bytes_read..];
            self.decoded(status.bytes_written)?;
            // Less than there is room for: all that came is decoded.
            if piece.is_empty() && status.bytes_written < PIECE {
                return Ok(());
            }
        }
    }

    fn decoded(&mut self, length: usize) -> io::Result<()> {
        let decoded = &self.decoded[..length];
        self.size += length as u64;
        if self.size > self.most {
            return Err(invalid("it decodes to more than there may be in it"));
        }
        if self.first.len() < BLOCK {
            let missing = (BLOCK - self.first.len()).min(length);
            self.first.extend_from_slice(&decoded[..missing]);
            if self.first.len() == BLOCK && !begins(&self.first) {
                return Err(invalid("it does not begin as a tar archive does"));
            }
        }
        let zeros = decoded.iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if zeros == length { self.zeros + zeros as u64 } else { zeros as u64 };
        Ok(())
    }

    /// There is no further piece.
    ///
    /// # Errors
    /// When there should be.
    pub fn finish(self) -> io::Result<()> {
        let blocks = self.size.is_multiple_of(BLOCK as u64);
        match self.whole && blocks && self.zeros >= END {
            true => Ok(()),
            false => Err(invalid("it ends in the middle")),
        }
    }
}

/// Whether this is the first header of an archive; or the end, of one that has nothing in it.
fn begins(block: &[u8]) -> bool {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(block);
    let written = header.cksum();
    header.set_cksum();
    let right = written.is_ok_and(|written| header.cksum().is_ok_and(|right| right == written));
    (right && block[257..262] == *b"ustar") || block.iter().all(|byte| *byte == 0)
}

fn invalid(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{pack, tests::packed};

    const MOST: u64 = 1 << 40;

    fn checked(bytes: &[u8], piece: usize, most: u64) -> io::Result<()> {
        let mut check = Check::new(most)?;
        bytes.chunks(piece).try_for_each(|piece| check.add(piece))?;
        check.finish()
    }

    fn archive() -> Vec<u8> {
        let root = tempfile::tempdir().expect("made");
        let noise: Vec<u8> =
            std::iter::repeat_with(|| *uuid::Uuid::new_v4().as_bytes()).take(40_000).flatten().collect();
        fs::write(root.path().join("noise"), noise).expect("written");
        fs::write(root.path().join("zeros"), vec![0; 3_000_000]).expect("written");
        packed(root.path())
    }

    #[test]
    fn what_was_packed_passes_however_it_is_cut_and_no_part_of_it_does() {
        let archive = archive();
        for piece in [archive.len(), 100_000, 4096, 7] {
            checked(&archive, piece, MOST).expect("an archive");
        }
        for part in [0, 1, 3, 4, 100, archive.len() / 2, archive.len() - 1] {
            let error = checked(&archive[..part], 4096, MOST).expect_err("a part");
            assert_eq!(error.to_string(), "it ends in the middle", "{part}");
        }
        let empty = packed(&tempfile::tempdir().expect("made").path().join("nothing"));
        checked(&empty, 4096, MOST).expect("an archive of nothing");
    }

    #[test]
    fn what_is_no_archive_is_told_apart() {
        let archive = archive();
        let mut damaged = archive.clone();
        damaged[0] ^= 1;
        checked(&damaged, 4096, MOST).expect_err("damaged");
        checked(b"not zstd at all", 4096, MOST).expect_err("not zstd");
        let trailed = [archive.as_slice(), b"something else"].concat();
        checked(&trailed, 4096, MOST).expect_err("there is more behind it");
        let text = zstd::encode_all(&[b'x'; 4096][..], 3).expect("encoded");
        let error = checked(&text, 4096, MOST).expect_err("not tar");
        assert_eq!(error.to_string(), "it does not begin as a tar archive does");
        let error = checked(&archive, 4096, 1_000_000).expect_err("too large");
        assert_eq!(error.to_string(), "it decodes to more than there may be in it");
    }

    #[test]
    fn a_window_that_takes_too_much_memory_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("made");
        encoder.window_log(27).and_then(|()| encoder.long_distance_matching(true)).expect("set");
        let root = tempfile::tempdir().expect("made");
        let output = tempfile::NamedTempFile::new().expect("made");
        pack(root.path(), Box::new(output.reopen().expect("opened"))).expect("packed");
        let plain = zstd::decode_all(fs::File::open(output.path()).expect("opened")).expect("decoded");
        io::Write::write_all(&mut encoder, &plain).expect("written");
        checked(&encoder.finish().expect("finished"), 4096, MOST).expect_err("too much memory");
    }
}
