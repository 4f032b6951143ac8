//! Who a certificate speaks for, and which certificates count: a cluster's authority, the identities that it vouches for,
//! and the verification of both sides of a connection. Never reads a file, opens a connection or asks for the time.
//!
//! An identity is a URI, `clustermesh://<cluster>/<role>`. A certificate counts only if it leads to a root that is trusted
//! for exactly the cluster that it names, so that an authority can vouch for nobody else, and host names play no part.

mod authority;
mod bundle;
mod certificate;
mod identity;
mod refusal;
mod revocations;
mod tls;
mod trust;
mod upkeep;

pub use authority::{Authority, AuthorityError, Issued, Lifetime};
pub use bundle::{Bundle, BundleError};
pub use certificate::{Certificate, CertificateError, Fingerprint, HexError, Serial};
pub use identity::{Identity, IdentityError, Role};
pub use refusal::{Refusal, RefusalReason};
pub use revocations::Revocations;
pub use tls::{ClientVerifier, ServerVerifier, client_config, provider, server_config};
pub use trust::{Side, Trust};
pub use upkeep::{Cause, Upkeep, Wanted};
