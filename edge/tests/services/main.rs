//! One edge, many services: each with its dialect, secret, rules and limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod capacity;
mod ports;
mod presets;
mod rates;
mod rules;
mod serving;
