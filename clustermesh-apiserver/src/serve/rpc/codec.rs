//! Messages in and out, with buffers that begin small: most streams are idle.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::MAX_REQUEST_BYTES;

/// Enough for a request, and for an answer to say that nothing is there.
const BUFFER_BYTES: usize = 256;
/// Small answers that are ready are sent together, up to so many bytes.
const TOGETHER_BYTES: usize = 32 << 10;

pub(super) struct SmallBuffers<Out, In>(PhantomData<(Out, In)>);

impl<Out, In> Codec for SmallBuffers<Out, In>
where
    Out: Message + Send + 'static,
    In: Message + Default + Send + 'static,
{
    type Encode = Out;
    type Decode = In;
    type Encoder = <ProstCodec<Out, In> as Codec>::Encoder;
    type Decoder = <ProstCodec<Out, In> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Out, In>::raw_encoder(BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Out, In>::raw_decoder(BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES))
    }
}

/// A handler of calls that take `In` and give `Out`.
pub(super) fn grpc<Out, In>() -> Grpc<SmallBuffers<Out, In>>
where
    Out: Message + Send + 'static,
    In: Message + Default + Send + 'static,
{
    Grpc::new(SmallBuffers(PhantomData)).max_decoding_message_size(MAX_REQUEST_BYTES)
}
