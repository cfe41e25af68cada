//! Machines that join later, and that are thrown out.
