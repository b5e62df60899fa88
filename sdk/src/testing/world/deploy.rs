//! What becomes of the deployments that runs ask for.

use super::World;
use crate::testing::deployments::{Fleet, Settled};
use crate::testing::state::State;
use crate::{DeploymentId, Trigger};

impl World {
    /// What a good run asked for is what deployments are to be. Whoever else waits for one of them waits
    /// for what will not be.
    pub(super) fn commit_changes(&mut self, state: &State) {
        if state.changes.is_empty() {
            return;
        }
        self.fleet = state.fleet.clone();
        self.fleet.commit();
        for change in &state.changes {
            let waits = |place: &usize| {
                let task = &self.tasks[*place];
                task.known.asked.id != state.me.id && task.awaited.contains(&change.id)
            };
            let others: Vec<usize> = (0..self.tasks.len()).filter(waits).collect();
            for place in others {
                let task = &mut self.tasks[place];
                task.awaited.retain(|awaited| *awaited != change.id);
                let id = task.known.asked.id.clone();
                self.deliver(&id, Trigger::DeploymentSettled(Fleet::superseded(change)));
            }
            let task = self.task_mut(&state.me.id);
            if !task.awaited.contains(&change.id) {
                task.awaited.push(change.id.clone());
            }
        }
    }

    /// A deployment comes to rest, and whoever waits for it is told.
    #[track_caller]
    pub fn settle(&mut self, id: &DeploymentId, how: &Settled) {
        let settlement = self.fleet.settle(id, how);
        let waits = |place: &usize| self.tasks[*place].awaited.contains(id);
        let waiting: Vec<usize> = (0..self.tasks.len()).filter(waits).collect();
        for place in waiting {
            let task = &mut self.tasks[place];
            task.awaited.retain(|awaited| awaited != id);
            let to = task.known.asked.id.clone();
            self.deliver(&to, Trigger::DeploymentSettled(settlement.clone()));
        }
    }
}
