//! Network namespaces of one Linux machine, joined by wide-area links that are emulated in user space: no `netem`, no `nft`,
//! nothing of the machine's own network is touched, and nothing is left behind when the process is killed.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use trishula_wan::{Shape, Star};
//! # fn example() -> std::io::Result<()> {
//! let star = Star::new(2)?;
//! star.set_both(0, 1, &Shape::delayed(Duration::from_millis(25)).losing(0.01));
//! let socket = star.at(0).enter(|| std::net::UdpSocket::bind((star.at(0).ipv4(), 0)))?;
//! star.cut(0, 1); // and nothing comes from 0 to 1 any more
//! # Ok(()) }
//! ```
//!
//! Each namespace has one TUN device, `wan0`, with an IPv4 and an IPv6 address and the default routes. A thread for each
//! reads what its namespace sends, and writes it to the device of whoever has the destination's address, when it is
//! time. Kernel TCP, UDP and ICMP cross it unchanged.
//!
//! | module | what it is for |
//! |---|---|
//! | `star` | the namespaces, the threads between them, and what can be changed while they run |
//! | `shape` | what one direction does to a packet: when it arrives, or that it is lost |
//! | `packet` | what must be known of a packet: destination, and whether it is UDP |
//! | `namespace` | being, and starting programs, inside one |
//! | `control` | the same by lines of text, for the command line |
//! | `privilege` | what it takes, and becoming root in a user namespace |
//! | `sys` | the few system calls; elsewhere than on Linux each says that there is no such thing |

pub mod control;
mod namespace;
mod packet;
mod privilege;
mod shape;
mod star;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(not(target_os = "linux"))]
#[path = "nowhere.rs"]
mod sys;

pub use namespace::Namespace;
pub use privilege::{available, become_root, inside};
pub use shape::{GilbertElliott, Loss, Rate, Shape};
pub use star::{Counters, Star};
pub use sys::{be_punctual, refuse_segments, send_in_segments, set_congestion};
