//! Python.

use super::super::super::error::Error;
use super::super::super::output::Output;
use super::super::project::Project;
use super::{Options, Tested};

/// Builds the component.
pub async fn build(_: &Project, _: &Options, _: &Output) -> Result<Vec<u8>, Error> {
    Err(not_yet())
}

/// Runs the skill's own tests.
pub async fn test(_: &Project, _: &Options, _: &Output) -> Result<Tested, Error> {
    Err(not_yet())
}

fn not_yet() -> Error {
    Error::local_hint(
        "skills in Python cannot be built by this version yet",
        "build the component with componentize-py, and push the .wasm file",
    )
}
