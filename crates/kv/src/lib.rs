//! The mesh's etcd client: dial, publish, watch, leases.
//!
//! Knows keys as bytes and the few records that its own work depends on; never Kubernetes, never eBPF.

pub mod alarm;
mod credentials;
mod dial;
pub mod election;
mod entry;
mod etcd_endpoint;
mod event;
pub mod fault;
pub mod forget;
pub mod health;
mod history;
mod lease;
mod list;
mod pem;
pub mod publish;
mod race;
mod raw;
mod reconnect;
mod server;
mod session;
mod shown;
pub mod standby;
mod swap;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod watch;

pub use alarm::Alarm;
pub use credentials::Credentials;
pub use dial::{Dialer, DialerError};
pub use entry::{Entry, RawEntry};
pub use etcd_endpoint::EtcdEndpoint;
pub use event::{Change, Event};
pub use fault::{CallError, DialError, KvError, Superseded};
pub use pem::TlsError;
pub use raw::{RawChange, RawEvent, RawWatch, Revision};
pub use session::Session;
pub use tls::{Tls, share_roots};
pub use watch::{PeerWatch, Wanted};
