//! The places of a message as the store writes them, and their words for people.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use crate::wire::record::Place;

/// Whether a message that lies there still has its payload.
pub(in crate::store) fn has_payload(place: Place) -> bool {
    !matches!(place, Place::Handed | Place::Ended)
}

/// Every place, and the word for it in the file and for people.
pub const PLACES: [(Place, &str); 6] = [
    (Place::Mailbox, "mailbox"),
    (Place::Outbox, "outbox"),
    (Place::Copy, "copy"),
    (Place::Handed, "handed"),
    (Place::Dead, "dead"),
    (Place::Ended, "ended"),
];

/// The word for a place.
pub fn place_word(place: Place) -> &'static str {
    PLACES[place_index(place)].1
}

/// The place's line in [`PLACES`].
pub(in crate::store) fn place_index(place: Place) -> usize {
    match place {
        Place::Mailbox => 0,
        Place::Outbox => 1,
        Place::Copy => 2,
        Place::Handed => 3,
        Place::Dead => 4,
        Place::Ended => 5,
    }
}

/// Reads the word.
pub(in crate::store) fn read_place(word: &str) -> Option<Place> {
    PLACES.iter().find(|(_, known)| *known == word).map(|(place, _)| *place)
}

/// Writes a place as its line in [`PLACES`]: new ones go to the end.
pub fn serialize<S: Serializer>(place: &Place, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u8(place_index(*place) as u8)
}

/// Reads the line.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Place, D::Error> {
    let index = u8::deserialize(from)?;
    let known = PLACES.get(usize::from(index)).map(|(place, _)| *place);
    known.ok_or_else(|| D::Error::custom("a place that is not known"))
}
