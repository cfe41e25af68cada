//! Addresses and networks as operators write them: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Net {
    first: IpAddr,
    bits: u8,
}

impl Net {
    /// This machine.
    pub fn loopback() -> Vec<Net> {
        vec![
            Net { first: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 },
            Net { first: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 },
        ]
    }

    /// Whether an address is in it. An IPv4 address that came over an IPv6 socket counts as IPv4.
    pub fn has(&self, address: IpAddr) -> bool {
        let (first, address, width) = match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                (u128::from(first.to_bits()), address.to_bits().into(), 32)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => (first.to_bits(), address.to_bits(), 128),
            _ => return false,
        };
        // All of the bits are shifted out for a network of all addresses.
        let shift = width - u32::from(self.bits);
        (first ^ address).checked_shr(shift).unwrap_or(0) == 0
    }
}

/// Whether one of them has the address.
pub fn any(nets: &[Net], address: IpAddr) -> bool {
    nets.iter().any(|net| net.has(address))
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let wrong =
            || format!("{text:?} is no address or network, such as \"192.0.2.7\" or \"192.0.2.0/24\"");
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => (first, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().map_err(|_| wrong())?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // Signs and spaces, which `parse` would take, are no part of it.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None => width,
        };
        if bits > width {
            return Err(format!("{text:?}: a network of this kind has at most {width} bits"));
        }
        let net = Net { first, bits };
        let host = match first {
            IpAddr::V4(first) => u128::from(first.to_bits()) << 96,
            IpAddr::V6(first) => first.to_bits(),
        };
        // A mistyped network would silently trust others than were meant.
        if host.checked_shl(bits.into()).unwrap_or(0) != 0 {
            return Err(format!(
                "{text:?} has bits behind the network's {bits}; write the network's first address"
            ));
        }
        Ok(net)
    }
}

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Net, String> {
        text.parse()
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_network_only() {
        // covers B13, B18
        for (net, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("198.51.100.128/25", "198.51.100.128", "198.51.100.127"),
        ] {
            let read: Net = net.parse().unwrap();
            assert!(read.has(inside.parse().unwrap()), "{inside} in {net}");
            assert!(!read.has(outside.parse().unwrap()), "{outside} in {net}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_it_should_be() {
        // covers B13
        for text in [
            "",
            "localhost",
            "192.0.2.0/33",
            "192.0.2.0/-1",
            "192.0.2.0/+8",
            "192.0.2.1/24",
            "::1/64",
            "192.0.2/24",
            "::/129",
        ] {
            let why = text.parse::<Net>().unwrap_err();
            assert!(why.contains(text), "{why}");
        }
    }
}
