//! What must be known of an IP packet to pass it on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol number of UDP (RFC 768), and of the header of an IPv6 fragment (RFC 8200).
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// A packet's address and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub to: IpAddr,
    pub is_udp: bool,
}

/// `None`: neither IPv4 nor IPv6, or cut short.
pub fn head(packet: &[u8]) -> Option<Head> {
    match packet.first()? >> 4 {
        4 => {
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Head { to: Ipv4Addr::from(to).into(), is_udp: packet[9] == UDP })
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let protocol = match packet[6] {
                FRAGMENT => *packet.get(40)?,
                other => other,
            };
            Some(Head { to: Ipv6Addr::from(to).into(), is_udp: protocol == UDP })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_protocols_are_found() {
        // covers T25
        let mut four = [0u8; 28];
        (four[0], four[9]) = (0x45, UDP);
        four[16..20].copy_from_slice(&[192, 0, 2, 7]);
        assert_eq!(head(&four), Some(Head { to: [192, 0, 2, 7].into(), is_udp: true }));
        four[9] = 6;
        assert!(!head(&four).unwrap().is_udp);
        assert_eq!(head(&four[..19]), None);

        let mut six = [0u8; 48];
        (six[0], six[6], six[39]) = (0x60, UDP, 9);
        assert_eq!(head(&six), Some(Head { to: "::9".parse().unwrap(), is_udp: true }));
        (six[6], six[40]) = (FRAGMENT, UDP);
        assert!(head(&six).unwrap().is_udp);
        six[40] = 6;
        assert!(!head(&six).unwrap().is_udp);
        assert_eq!(head(&six[..39]), None);
        assert_eq!(head(&[]), None);
    }
}
