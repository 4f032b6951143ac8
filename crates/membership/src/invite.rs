//! Invites: the token that carries one to another cluster, the record that it leaves in etcd, and whether whoever shows one
//! may join.
//!
//! Never hashes, draws random bytes or knows the time: these are given.

mod claim;
mod identifier;
mod record;
mod token;

pub use claim::{Claim, ClaimError, Verdict};
pub use identifier::{Digest, IdentifierError, InviteId, Secret};
pub use record::{InviteRecord, MAX_LIFETIME_S, MAX_WRONG_SECRETS, MIN_LIFETIME_S, RecordError, key, prefix};
pub use token::{Token, TokenError};
