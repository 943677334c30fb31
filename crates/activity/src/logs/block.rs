//! Lines as they are stored: a protobuf message under zstd.
//!
//! Lines are numbered by their place: a block knows its first sequence from its row. Messages joined are one message of
//! all lines, so joining blocks needs no decoding of lines.

use chrono::SubsecRound;
use mi_kernel::{Error, Result, Time};
use mi_proto::v1::{LogLine, LogStream};
use mi_rpc::convert;
use prost::Message;

use crate::{
    packed::{FAST, SMALL, compress, decompress, int},
    span,
};

/// Longest line.
pub(crate) const MAX_LINE: usize = 65_536;
const CUT: &str = " [cut: the line was longer than 65536 bytes]";
/// Smaller blocks are compressed where they are; larger ones would hold up other calls of the same thread.
const INLINE: usize = 64 << 10;

/// The stored form of lines, before compression.
#[derive(Clone, PartialEq, Message)]
struct Lines {
    #[prost(message, repeated, tag = "1")]
    lines: Vec<LogLine>,
}

/// Compressed lines and what an index row says about them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Block {
    pub(crate) count: i64,
    /// Earliest time of a line.
    pub(crate) first_time: Time,
    /// Latest time of a line.
    pub(crate) last_time: Time,
    /// Size before compression.
    pub(crate) raw_bytes: i64,
    pub(crate) data: Vec<u8>,
}

impl Block {
    /// Takes lines of a request in: `now` for those without a time, long ones cut.
    ///
    /// # Errors
    /// `Invalid` for a time out of range or a line of no stream.
    pub(crate) async fn new(mut lines: Vec<LogLine>, now: Time) -> Result<Self> {
        for line in &mut lines {
            line.sequence = 0;
            if matches!(line.stream(), LogStream::Unspecified) {
                return Err(Error::invalid("lines.stream", "must be STDOUT, STDERR or AGENT"));
            }
            let time = match &line.time {
                Some(time) => span::checked("lines.time", convert::time("lines.time", time)?)?.trunc_subsecs(6),
                None => now,
            };
            line.time = Some(convert::timestamp(time));
            if line.text.len() > MAX_LINE {
                line.text.truncate(line.text.floor_char_boundary(MAX_LINE - CUT.len()));
                line.text.push_str(CUT);
            }
        }
        Self::of(lines, now).await
    }

    /// The block without its first lines, for a batch of which those are stored.
    pub(crate) async fn without_first(&self, count: i64, now: Time) -> Result<Self> {
        let lines = open(&self.data, self.raw_bytes)?;
        let skip = usize::try_from(count).unwrap_or_default();
        Self::of(lines.into_iter().skip(skip).collect(), now).await
    }

    async fn of(lines: Vec<LogLine>, now: Time) -> Result<Self> {
        let times = || lines.iter().filter_map(line_time);
        let (first_time, last_time) = (times().min().unwrap_or(now), times().max().unwrap_or(now));
        let lines = Lines { lines };
        let raw = lines.encoded_len();
        let count = int(lines.lines.len());
        let seal = move || compress(&lines.encode_to_vec(), FAST);
        let data = if raw <= INLINE { seal()? } else { blocking(seal).await? };
        Ok(Self { count, first_time, last_time, raw_bytes: int(raw), data })
    }
}

/// The time of a stored line.
pub(crate) fn line_time(line: &LogLine) -> Option<Time> {
    line.time.as_ref().and_then(|time| convert::time("time", time).ok())
}

/// The lines of a block, in order, unnumbered.
///
/// # Errors
/// `Internal` when it is damaged.
pub(crate) fn open(data: &[u8], raw_bytes: i64) -> Result<Vec<LogLine>> {
    let raw = decompress(data, raw_bytes)?;
    Ok(Lines::decode(raw.as_slice()).map_err(Error::internal)?.lines)
}

/// One block of the lines of several, in the order given. Sizes come along as `raw_bytes`.
///
/// # Errors
/// `Internal` when one is damaged.
pub(crate) async fn join(blocks: Vec<(Vec<u8>, i64)>) -> Result<Vec<u8>> {
    blocking(move || {
        let mut raw = Vec::new();
        for (data, raw_bytes) in blocks {
            raw.append(&mut decompress(&data, raw_bytes)?);
        }
        compress(&raw, SMALL)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { sequence: 77, time: None, stream: LogStream::Stdout.into(), text: text.into() }
    }

    fn texts(data: &[u8], raw_bytes: i64) -> Vec<String> {
        open(data, raw_bytes).expect("own block").into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn joined_blocks_hold_all_lines_in_order() {
        let now = SystemClock.now();
        let one = Block::new(vec![line("a"), line("")], now).await.expect("valid");
        let two = Block::new(vec![line("b")], now).await.expect("valid");
        let raw = one.raw_bytes + two.raw_bytes;
        let joined =
            join(vec![(one.data.clone(), one.raw_bytes), (two.data, two.raw_bytes)]).await.expect("own blocks");
        assert_eq!(texts(&joined, raw), ["a", "", "b"]);
        let rest = one.without_first(1, now).await.expect("own block");
        assert_eq!((rest.count, texts(&rest.data, rest.raw_bytes)), (1, vec![String::new()]));
    }

    #[tokio::test]
    async fn long_lines_are_cut_at_a_character_and_say_so() {
        let now = SystemClock.now();
        let fits = "x".repeat(MAX_LINE);
        let block = Block::new(vec![line(&"é".repeat(40_000)), line(&fits)], now).await.expect("valid");
        let lines = texts(&block.data, block.raw_bytes);
        assert!(lines[0].len() <= MAX_LINE && lines[0].len() > MAX_LINE - 4, "{}", lines[0].len());
        assert!(lines[0].ends_with(CUT) && lines[0].starts_with("éé"));
        assert_eq!(lines[1], fits);
    }

    #[tokio::test]
    async fn times_span_the_lines_whatever_their_order() {
        let now = SystemClock.now();
        let at = |seconds: i64| LogLine {
            time: Some(convert::timestamp(now + chrono::TimeDelta::seconds(seconds))),
            ..line("x")
        };
        let block = Block::new(vec![at(5), at(-7), at(1)], now).await.expect("valid");
        let seconds = |time: Time| (time - now).num_seconds();
        assert_eq!((seconds(block.first_time), seconds(block.last_time)), (-7, 5));
    }

    #[tokio::test]
    async fn a_line_of_no_stream_or_time_is_refused() {
        let now = SystemClock.now();
        let no_stream = LogLine { stream: 0, ..line("x") };
        let unknown_stream = LogLine { stream: 9, ..line("x") };
        let year_10000 =
            LogLine { time: Some(prost_types::Timestamp { seconds: 253_402_300_800, nanos: 0 }), ..line("x") };
        for (bad, field) in [(no_stream, "lines.stream"), (unknown_stream, "lines.stream"), (year_10000, "lines.time")]
        {
            assert_eq!(Block::new(vec![bad], now).await.expect_err(field).field, Some(field));
        }
    }
}
