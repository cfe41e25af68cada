//! The number by which a CA knows each certificate it signed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::secret;

/// Longest serial number that RFC 5280 allows, in bytes.
const MAX_BYTES: usize = 20;

/// A certificate's serial number: big-endian without leading zeros; written in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A new one of 16 random bytes. The top bits are fixed to `01`, so that it is positive and never shortened.
    pub fn random() -> Result<Self, Error> {
        let mut bytes: [u8; 16] = secret::random()?;
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Ok(Self(bytes.to_vec()))
    }

    /// Takes the bytes of an ASN.1 integer.
    pub fn from_der_integer(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        Self(bytes[zeros..].to_vec())
    }

    /// Big-endian, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Serial {
    type Err = Error;

    /// Reads hexadecimal, also as `openssl x509` prints it (upper case, colons between the bytes).
    fn from_str(given: &str) -> Result<Self, Error> {
        let digits: String = given.chars().filter(|c| *c != ':').collect();
        let wrong =
            || Error::malformed(format!("serial number {given:?}"), "is not 2 to 40 hexadecimal digits");
        let all_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !all_hex || digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() > 2 * MAX_BYTES {
            return Err(wrong());
        }
        let pairs = digits.as_bytes().chunks_exact(2);
        let bytes: Option<Vec<u8>> = pairs
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok()))
            .collect();
        bytes.map(|b| Self::from_der_integer(&b)).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Serial {
    type Error = Error;
    fn try_from(given: String) -> Result<Self, Error> {
        given.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> String {
        serial.to_string()
    }
}

/// Bytes as lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_read_as_it_is_written() {
        // covers T24
        let serial = Serial::random().unwrap();
        assert_eq!(serial.as_bytes().len(), 16);
        assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
        assert_eq!("00:4A:ff".parse::<Serial>().unwrap().to_string(), "4aff");
        for bad in ["", "4", "xy", "+1", &"aa".repeat(21)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad:?}");
        }
    }
}
