//! What stands between a connection and its session: pages and their headers, plain health, TLS, certificates of clients,
//! HTTP/2, and a stop with many clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod certified;
mod clients;
mod crowds;
mod http2;
mod pages;
mod tls;
