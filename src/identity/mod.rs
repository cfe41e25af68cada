//! Who is who: the mesh's CA, certificates and everything TLS needs.
//!
//! A machine is what its certificate says. The CA of a mesh signs a *link leaf* for each node and each edge; the
//! leaf's URI names the role (`trishula://node/agni`), and everything else follows from it:
//!
//! ```text
//!  ca::Authority ──issues──▶ bundle::Bundle (a folder on each machine) ──▶ tls::{quic_server, quic_client, …}
//!        │                                                                        │ peer's certificates
//!        └──signs──▶ revocation::RevocationList ──▶ trust::Trust::admit ◀─────────┘  ─▶ PeerName or Refusal
//! ```
//!
//! * How a certificate comes to a new machine: [`ticket`] (what `trishula invite` prints) and [`enrol`] (what
//!   `trishula join` and the holder of the CA say to each other). How it is replaced before it ends: [`renewal`].
//! * What is in a certificate is decided in [`profile`] and nowhere else; `certs/README.md` gives the reasons.
//! * Nothing here reads a clock or opens a socket; only [`files`], [`bundle`], [`ca`], [`invites`] and [`port`] touch the disk.
//! * What lets a connection come back faster: [`sessions`] (0-RTT) and [`port`] (stateless resets).

pub mod bundle;
pub mod ca;
pub mod csr;
pub mod enrol;
mod error;
pub mod files;
pub mod info;
pub mod invites;
pub mod live;
mod name;
pub mod port;
pub mod profile;
pub mod renewal;
pub mod revocation;
mod secret;
mod serial;
pub mod sessions;
pub mod ticket;
pub mod tls;
pub mod trust;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use error::Error;
pub use name::{ANY_NODE, Owner, PeerName, Role, RoleKind};
pub use serial::Serial;
pub use trust::{Refusal, Trust};
