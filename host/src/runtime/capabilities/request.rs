//! `eve:skill/request`: what the run was asked to do, read from its [`Job`](crate::runtime::Job).

use crate::runtime::bindings::eve::skill::request::Host;
use crate::runtime::bindings::eve::skill::types;
use crate::runtime::context::Context;
use crate::runtime::job::Trigger;

use super::queue::guest_status;

impl types::Host for Context {}

impl Host for Context {
    fn id(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.id.to_string())
    }

    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.job.attempt)
    }

    fn prompt(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.prompt.clone())
    }

    fn context(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.context.clone())
    }

    fn repo_url(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.job.repo_url.clone())
    }

    fn branch(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.job.branch.clone())
    }

    fn config(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.config.clone())
    }

    fn metadata(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.metadata.clone())
    }

    fn trigger(&mut self) -> wasmtime::Result<types::Trigger> {
        Ok(guest_trigger(&self.job.trigger))
    }

    fn additional_triggers(&mut self) -> wasmtime::Result<Vec<types::Trigger>> {
        Ok(self.job.additional_triggers.iter().map(guest_trigger).collect())
    }

    fn parent_id(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.job.parent_id.map(|id| id.to_string()))
    }

    fn worker_type(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.worker_type.clone())
    }

    fn org_slug(&mut self) -> wasmtime::Result<String> {
        Ok(self.job.org_slug.clone())
    }

    fn user_id(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.job.user_id.map(|id| id.to_string()))
    }

    fn deadline(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::try_from(self.job.deadline.timestamp_millis()).unwrap_or(0))
    }
}

fn guest_trigger(trigger: &Trigger) -> types::Trigger {
    match trigger {
        Trigger::Initial => types::Trigger::Initial,
        Trigger::ChildComplete { request_id, status } => {
            types::Trigger::ChildComplete(types::Completion {
                request_id: request_id.to_string(),
                status: guest_status(*status),
            })
        }
        Trigger::HitlResponse { question_id, response, answered_by } => {
            types::Trigger::HitlResponse(types::Answer {
                question_id: question_id.clone(),
                response: response.clone(),
                answered_by: answered_by.clone(),
            })
        }
        Trigger::DeploymentSettled { deployment_id, status, reason } => {
            types::Trigger::DeploymentSettled(types::Settlement {
                deployment_id: deployment_id.clone(),
                status: status.clone(),
                reason: reason.clone(),
            })
        }
        Trigger::Timer { name } => types::Trigger::Timer(name.clone()),
        Trigger::Cron { name } => types::Trigger::Cron(name.clone()),
        Trigger::Other { kind } => types::Trigger::Other(kind.clone()),
    }
}
