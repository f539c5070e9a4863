//! The first words with a client of BUS/RT, until the name that it claims is known.

use std::io;

use daemoneye_bridge::native::codec::{Code, CodecError, Text, greeting};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::session::native::wire::Wire;

/// Most bytes of a claimed name.
const NAME: usize = 256;

/// Why a greeting came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error("connection lost while greeting")]
    Io(#[from] io::Error),
    #[error("greeting not understood")]
    Wire(#[from] CodecError),
}

/// Greets a client and reads the name that it claims; the caller answers for that with [`answer`] and sets the deadline.
///
/// # Errors
///
/// [`GreetError`]; the client was told, if it could be.
pub(super) async fn greet<I>(wire: &mut Wire<I>) -> Result<Text, GreetError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    wire.append(|into| into.extend_from_slice(&greeting::opening()));
    wire.flush().await?;
    if let Err(error) = greeting::judge(wire.exactly().await?) {
        answer(wire, Code::NOT_SUPPORTED).await?;
        return Err(error.into());
    }
    answer(wire, Code::OK).await?;
    let name = match greeting::name_length(wire.exactly().await?, NAME) {
        Ok(length) => greeting::name(wire.some(length).await?),
        Err(error) => Err(error),
    };
    match name {
        Ok(name) => Ok(name),
        Err(error) => {
            answer(wire, Code::DATA).await?;
            Err(error.into())
        }
    }
}

/// Sends the result byte of a step.
///
/// # Errors
///
/// Those of the connection.
pub(super) async fn answer<I>(wire: &mut Wire<I>, code: Code) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    wire.append(|into| into.extend_from_slice(&[code.0]));
    wire.flush().await
}
