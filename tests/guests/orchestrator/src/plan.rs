//! The plan in a context, and the chance that it leaves things to.

use eve_sdk::prelude::*;

/// What a request of this skill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Orchestrator,
    Leaf,
    /// Stands for something that its parent has seen.
    Marker,
}

/// Edges in a wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blocked {
    #[default]
    None,
    Chain,
    Diamond,
}

/// Policy of these edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    Cancel,
    Run,
    Hold,
}

/// A context: what to do, and where in its parent's plan this is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    pub role: Role,
    pub children: usize,
    pub waves: u32,
    pub depth: u32,
    pub width: usize,
    pub blocked: Blocked,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Policy>,
    pub fail_percent: u64,
    pub retry_percent: u64,
    pub spin_ms: u64,
    pub ask: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer_ms: Option<u64>,
    pub race: bool,
    pub detached: bool,
    pub seed: u64,
    pub skill: String,
    /// Which wave of its parent this belongs to, from 1; 0 for what belongs to none.
    pub wave: u32,
    /// Its place in the wave, from 0.
    pub n: usize,
    /// Of a marker: what was seen, `answer` or `timer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Of a marker: the question's id, the timer's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            role: Role::Orchestrator,
            children: 3,
            waves: 1,
            depth: 0,
            width: 1,
            blocked: Blocked::None,
            on_failure: None,
            fail_percent: 0,
            retry_percent: 0,
            spin_ms: 0,
            ask: false,
            expires_ms: None,
            timer_ms: None,
            race: false,
            detached: false,
            seed: 0,
            skill: "orchestrator".into(),
            wave: 0,
            n: 0,
            of: None,
            source: None,
        }
    }
}

impl Plan {
    /// The context of a child.
    pub fn child(&self, role: Role, wave: u32, n: usize) -> Value {
        let (seed, skill) = (self.seed, &self.skill);
        let (fail, retry, spin) = (self.fail_percent, self.retry_percent, self.spin_ms);
        if role == Role::Leaf {
            return json!({
                "role": role, "wave": wave, "n": n, "seed": seed, "skill": skill,
                "fail_percent": fail, "retry_percent": retry, "spin_ms": spin,
            });
        }
        // A question for every orchestrator of a tree would be too many for those who answer.
        json!(Self { depth: self.depth - 1, ask: false, detached: false, wave, n, ..self.clone() })
    }

    /// 0 to 99: the same for the same seed and parts, on every machine (FNV-1a).
    pub fn fate(&self, parts: &[&str]) -> u64 {
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = self
            .seed
            .to_le_bytes()
            .into_iter()
            .chain(bytes)
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        (hash >> 32) % 100
    }

    /// What the edge between two children of a wave does when the blocker fails.
    pub fn policy(&self, wave: u32, n: usize, blocker: usize) -> OnFailure {
        match self.on_failure {
            Some(Policy::Cancel) => OnFailure::Cancel,
            Some(Policy::Run) => OnFailure::Run,
            Some(Policy::Hold) => OnFailure::Hold,
            None if (wave as usize + n + blocker) % 2 == 0 => OnFailure::Cancel,
            None => OnFailure::Run,
        }
    }
}
