//! The command line against the real thing: every verb, both forms of output, every exit code.

mod access;
mod authoring;
mod brief;
mod db;
mod deployments;
mod graph;
mod guide;
mod hitl;
mod rates;
mod reading;
mod release_notes;
mod schedules;
mod secrets;
mod skills;
mod tls;
mod traffic;
mod tree;
