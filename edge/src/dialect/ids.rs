//! Ids by chance.

use rand::RngExt;

use super::step::Ids;

/// UUIDs of version 4 (RFC 9562 section 5.4).
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl Ids for Random {
    fn next_id(&mut self) -> String {
        let random: u128 = rand::rng().random();
        let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_the_form_of_a_version_4_uuid() {
        // covers B06
        let (one, other) = (Random.next_id(), Random.next_id());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
        assert!("89ab".contains(&one[19..20]), "{one}");
    }
}
