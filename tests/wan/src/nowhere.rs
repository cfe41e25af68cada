//! In place of `sys` elsewhere than on Linux.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// There is none.
#[derive(Debug)]
pub enum Tun {}

fn none<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "network namespaces are Linux's: run it there"))
}

pub fn new_namespace() -> io::Result<File> {
    none()
}

pub fn enter(_: &File) -> io::Result<()> {
    none()
}

impl Tun {
    pub fn open(_: &str) -> io::Result<Tun> {
        none()
    }

    pub fn read(&self, _: &mut [u8]) -> Option<usize> {
        match *self {}
    }

    pub fn write(&self, _: &[u8]) {
        match *self {}
    }

    pub fn wait(&self, _: Duration) {
        match *self {}
    }
}

/// Has this thread woken in time: on Linux only.
pub fn be_punctual() {}

/// Sets the congestion control of a TCP socket: on Linux only.
pub fn set_congestion(_: impl AsFd, _: &str) -> io::Result<()> {
    none()
}

/// Has the kernel refuse segments of UDP: on Linux only.
pub fn refuse_segments(_: &impl AsFd) -> io::Result<()> {
    none()
}

/// Has the kernel cut UDP into segments: on Linux only.
pub fn send_in_segments(_: &impl AsFd, _: u16) -> io::Result<()> {
    none()
}
