//! Who this cluster is to others, and who its peers are: what the admin API and the join port share.
//!
//! Owns the store of peer files and the order of changes to it; what may become a peer, `mesh_membership` decides.

mod certificates;
mod described;
mod dial;
mod peering;
mod refusal;
mod store;

pub(crate) use certificates::{OwnCertificates, missing as missing_certificates};
pub(crate) use described::Described;
pub(crate) use dial::{DialError, Told, dial};
pub(crate) use peering::{Peering, parse, parse_document};
pub(crate) use refusal::Refusal;
pub(crate) use store::{PeerSecret, PeerStore};
