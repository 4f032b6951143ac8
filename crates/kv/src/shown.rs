//! What a server has proven, to be judged again when what is trusted changes.

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What a server has proven in its handshake.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The host that was dialled.
    pub(crate) name: ServerName<'static>,
    /// The moment of the handshake. A certificate that has only expired since ends no connection.
    pub(crate) at: UnixTime,
}

impl Shown {
    pub(crate) fn of(stream: &TlsStream<TcpStream>, name: ServerName<'static>) -> Option<Self> {
        let chain = stream.get_ref().1.peer_certificates()?;
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        Some(Self { chain, name, at: UnixTime::now() })
    }
}
