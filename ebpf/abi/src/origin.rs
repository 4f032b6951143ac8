//! The value of the socket storage `ORIGINS`: what a translated socket had dialled.

use crate::plain;

/// The frontend that a socket dialled and the backend that it got. `getpeername` shows the frontend only
/// while the peer is still that backend: a socket can be connected again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Dialled address, network order, IPv4 v4-mapped.
    pub frontend_address: [u8; 16],
    /// Address after translation.
    pub backend_address: [u8; 16],
    /// Dialled port, network order.
    pub frontend_port: [u8; 2],
    /// Port after translation, network order.
    pub backend_port: [u8; 2],
    /// Index in `BACKENDS` at the time.
    pub backend: u32,
    /// The backend's epoch at the time.
    pub epoch: u32,
}
plain!(Origin, size 44, align 4);
