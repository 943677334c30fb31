//! How messages are encoded: as tonic does it, in buffers that begin small.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Where the buffer of a call begins, in bytes; it grows with its messages. There is one for each direction of each call, and
/// most of those that are open wait for a message that is small, if it comes at all: with tonic's 8 KiB that is what an idle stream
/// costs most.
const START: usize = 512;
/// Bytes of messages that are ready before they are sent on, as in tonic.
const YIELD: usize = 32 << 10;

/// The buffers of every call.
pub fn buffers() -> BufferSettings {
    BufferSettings::new(START, YIELD)
}

/// The codec of every call.
#[derive(Debug, Clone)]
pub struct SmallStart<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallStart<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallStart<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}
