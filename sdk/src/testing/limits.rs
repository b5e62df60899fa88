//! Every limit that the fake host keeps, once, each beside the platform's own constant in `host/src`.
//! The table of `refusals` is run against both, so that a number changed there and not here fails.

use std::ops::RangeInclusive;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

// --- A request: `requests::validate` ---

/// `PROMPT_BYTES`
pub const PROMPT_BYTES: usize = 256 * KIB;
/// `CONTEXT_BYTES`
pub const CONTEXT_BYTES: usize = MIB;
/// `SETTINGS_BYTES`: settings and labels, each, and what a list is filtered by.
pub const SETTINGS_BYTES: usize = 64 * KIB;
/// `REFERENCE_BYTES`: a repository's address, a branch's name.
pub const REFERENCE_BYTES: usize = 2 * KIB;
/// `KEY_CHARS`
pub const KEY_CHARS: usize = 255;
/// `BLOCKERS`
pub const BLOCKERS: usize = 10_000;
/// `JSON_DEPTH`
pub const JSON_DEPTH: usize = 64;
/// `DELAY_MS`
pub const DELAY_MS: u64 = 365 * DAY_MS;
/// `PRIORITY`
pub const PRIORITY: RangeInclusive<i16> = -100..=100;
/// `ATTEMPTS`
pub const ATTEMPTS: RangeInclusive<u16> = 1..=25;
/// The default of `eve.requests.max_attempts`.
pub const ATTEMPTS_DEFAULT: u16 = 3;
/// `TIMEOUT_MS`
pub const TIMEOUT_MS: RangeInclusive<u64> = 100..=DAY_MS;
/// In `validate::name`: a worker type's or a skill's name.
pub const NAME_BYTES: usize = 63;
/// In `capabilities::queue::guest`: an id is not looked at beyond this.
pub const ID_BYTES: usize = 64;

// --- A question and its answer: `hitl::validate`, `hitl::respond` ---

/// `QUESTION_BYTES`
pub const QUESTION_BYTES: usize = 16 * KIB;
/// `OPTIONS`
pub const OPTIONS: usize = 100;
/// `OPTION_CHARS`
pub const OPTION_CHARS: usize = 256;
/// `DETAILS_BYTES`
pub const DETAILS_BYTES: usize = 64 * KIB;
/// `EXPIRES_MS`
pub const EXPIRES_MS: RangeInclusive<u64> = 1_000..=30 * DAY_MS;
/// `RESPONSE_BYTES`
pub const RESPONSE_BYTES: usize = 64 * KIB;

// --- Deployments: `deployments::{names, image, settings}` ---

/// `MAX_ENVIRONMENT`
pub const ENVIRONMENT_BYTES: usize = 40;
/// `MAX_APP`
pub const APP_BYTES: usize = 50;
/// `MAX_REFERENCE`
pub const IMAGE_BYTES: usize = 512;
/// `MAX_REPLICAS`
pub const REPLICAS: u32 = 1_000;
/// `MAX_VARIABLES`
pub const VARIABLES: usize = 500;
/// `MAX_VARIABLES_BYTES`
pub const VARIABLES_BYTES: usize = 512 * KIB;
/// `DEPLOYS` of `runtime::limits`: changes of deployments that a run asks for.
pub const CHANGES: usize = 100;
/// Revisions in an answer.
pub const HISTORY: u32 = 100;
/// Lines of a pod in an answer.
pub const TAIL: u32 = 1_000;
/// `LONGEST_PATH` of `capabilities::deploy::guest`.
pub const PATH_BYTES: usize = 4 << 10;
/// Deployments in an answer.
pub const DEPLOYMENTS: usize = 1_000;
/// Pods in an answer.
pub const PODS: usize = 100;

// --- A run: `runtime::limits` ---

/// `EFFECTS`: everything that a run asks for.
pub const EFFECTS: usize = 8 * MIB;
/// `CREATES`: requests that a run creates, and children that it is shown.
pub const CREATES: usize = 10_000;
/// `QUESTIONS`
pub const QUESTIONS: usize = 100;
/// `TIMERS`
pub const TIMERS: usize = 100;
/// `TIMER_NAME_CHARS`
pub const TIMER_NAME_CHARS: usize = 255;
/// `TIMER`, in milliseconds.
pub const TIMER_MS: RangeInclusive<u64> = 1_000..=365 * DAY_MS;
/// `QUEUE_ANSWER`: what one call returns.
pub const QUEUE_ANSWER: usize = 8 * MIB;
/// `LIST`
pub const LIST: u32 = 100;
/// `guest::new_filter`
pub const LIST_DEFAULT: u32 = 20;
/// `CONTAINMENT_STEPS`
pub const CONTAINMENT_STEPS: usize = 200_000;
/// `LOG_LINES`
pub const LOG_LINES: usize = 1_000;
/// `LOG_BYTES`
pub const LOG_BYTES: usize = 256 * KIB;
/// `LOG_LINE`: longer ones are cut.
pub const LOG_LINE: usize = 16 * KIB;
/// `LOG_FIELDS`: more are cut.
pub const LOG_FIELDS: usize = 64;
/// `OUTPUT_SUMMARY`
pub const OUTPUT_SUMMARY: usize = 64 * KIB;
/// `NUMBER_SCALE` of `requests::validate`.
pub const NUMBER_SCALE: usize = 16_383;
/// `OUTPUT_DATA`
pub const OUTPUT_DATA: usize = MIB;
/// `MESSAGE`: of a failure, where longer ones are cut, and the reason for a cancellation.
pub const MESSAGE: usize = 8 * KIB;

// --- An orchestration: `requests::orchestration` ---

/// `EVENTS_PER_WAKEUP`
pub const EVENTS_PER_WAKEUP: usize = 1_000;
