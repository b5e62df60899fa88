//! What nearly every skill needs: `use eve_sdk::prelude::*;`.

pub use crate::queue::{OnFailure, Status};
pub use crate::{
    DeploymentId, Error, Failure, Outcome, QuestionId, Request, RequestId, Trigger, db, deploy,
    log, queue,
};
pub use serde::{Deserialize, Serialize};
pub use serde_json::{Value, json};
