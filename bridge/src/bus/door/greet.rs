//! The first words with a client, until its name is known.

use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    bus::door::guard,
    native::codec::{Code, CodecError, Text, greeting},
};

/// Why a client did not get in.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error("connection lost while greeting")]
    Io(#[from] io::Error),
    #[error("name {name:?} refused: {code}")]
    Name { name: Text, code: Code },
    #[error("greeting not understood")]
    Wire(#[source] CodecError),
}

/// Greets a client and reads the name that it claims, which has passed the guard.
///
/// The caller answers for the name with [`answer`], and sets the deadline.
pub(super) async fn greet<R, W>(source: &mut R, sink: &mut W) -> Result<Text, GreetError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    sink.write_all(&greeting::opening()).await?;
    sink.flush().await?;
    let mut opening = [0; greeting::OPENING];
    source.read_exact(&mut opening).await?;
    if let Err(error) = greeting::judge(opening) {
        answer(sink, Code::NOT_SUPPORTED).await?;
        return Err(GreetError::Wire(error));
    }
    answer(sink, Code::OK).await?;
    let mut head = [0; greeting::NAME_HEAD];
    source.read_exact(&mut head).await?;
    let name = match greeting::name_length(head, guard::NAME) {
        Ok(length) => {
            let mut name = vec![0; length];
            source.read_exact(&mut name).await?;
            greeting::name(name)
        }
        Err(error) => Err(error),
    };
    match name {
        Ok(name) => match guard::name(name.as_str()) {
            Ok(()) => Ok(name),
            Err(code) => {
                answer(sink, code).await?;
                Err(GreetError::Name { name, code })
            }
        },
        Err(error) => {
            answer(sink, Code::DATA).await?;
            Err(GreetError::Wire(error))
        }
    }
}

/// Sends the result byte of a step.
pub(super) async fn answer<W: AsyncWrite + Unpin>(sink: &mut W, code: Code) -> io::Result<()> {
    sink.write_all(&[code.0]).await?;
    sink.flush().await
}
