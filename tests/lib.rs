//! End-to-end tests of Eve Horizon.
