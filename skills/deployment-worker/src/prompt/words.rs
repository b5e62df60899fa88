//! The words that a prompt is read by, and how it is cut into them.

use super::Verb;
use crate::image::is_version;

/// What a word is to a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is to be done.
    Verb(Verb),
    /// `back`, as in `roll … back`.
    Back,
    /// `environment`: the environment's name stands beside it.
    Env,
    /// `app`: the app's name stands beside it.
    App,
    Image,
    Version,
    Revision,
    Replicas,
    Percent,
    /// `to`, `in`: an environment may follow.
    Into,
    /// `of`: an app may follow.
    Of,
    /// `and`, and commas: more of the same may follow.
    And,
    /// `by`: a number that follows is a difference.
    By,
    /// `more`: a number before it is a difference.
    More,
    Canary,
    Previous,
    /// A condition, a time or a `not`: what it is about is not understood, and so nothing is done.
    Unless,
    /// `everything`: more than one app.
    Everything,
    /// How it is to run: that is said in the context.
    Setting,
    /// Says nothing.
    Filler,
}

/// What a word in small letters is, if it is one of those that matter.
pub fn kind(word: &str) -> Option<Kind> {
    Some(match word {
        "deploy" | "deploys" | "deploying" | "redeploy" | "release" | "ship" | "launch"
        | "install" | "upgrade" | "update" | "publish" | "rollout" | "roll-out" | "push" => {
            Kind::Verb(Verb::Deploy)
        }
        "scale" | "scales" | "scaling" | "rescale" | "resize" => Kind::Verb(Verb::Scale),
        "rollback" | "roll-back" | "revert" | "undo" | "downgrade" => Kind::Verb(Verb::Rollback),
        "delete" | "undeploy" | "remove" | "destroy" | "uninstall" | "teardown"
        | "decommission" => Kind::Verb(Verb::Delete),
        "promote" => Kind::Verb(Verb::Promote),
        "abort" => Kind::Verb(Verb::Abort),
        "status" | "show" | "list" | "check" | "inspect" | "describe" | "what" | "whats"
        | "which" | "how" | "hows" | "is" | "are" | "health" | "state" | "running" | "runs"
        | "deployed" | "get" => Kind::Verb(Verb::Status),
        "back" => Kind::Back,
        "env" | "environment" | "environments" | "namespace" => Kind::Env,
        "app" | "application" | "service" | "microservice" => Kind::App,
        "image" | "container" => Kind::Image,
        "version" | "tag" => Kind::Version,
        "revision" | "rev" => Kind::Revision,
        "replica" | "replicas" | "instance" | "instances" | "pod" | "pods" | "copy" | "copies" => {
            Kind::Replicas
        }
        "percent" | "pct" | "%" => Kind::Percent,
        "to" | "in" | "into" | "on" | "onto" | "at" | "from" | "within" | "inside" | "towards" => {
            Kind::Into
        }
        "of" | "for" => Kind::Of,
        "and" | "or" | "plus" | "then" => Kind::And,
        "by" => Kind::By,
        "more" | "additional" | "extra" | "fewer" | "less" => Kind::More,
        "canary" | "canaries" => Kind::Canary,
        "previous" | "prior" | "last" | "before" => Kind::Previous,
        "not" | "dont" | "doesnt" | "never" | "except" | "unless" | "if" | "until" | "when"
        | "while" | "after" | "later" | "tomorrow" | "tonight" | "cannot" | "cant" | "without"
        | "stop" | "cancel" | "halt" | "pause" | "prevent" | "avoid" | "skip" | "wait" | "hold"
        | "second" | "seconds" | "minute" | "minutes" | "hour" | "hours" | "day" | "days"
        | "week" | "weeks" | "midnight" | "noon" | "weekend" => Kind::Unless,
        "everything" | "all" | "both" | "every" | "each" | "any" | "them" => Kind::Everything,
        "port" | "memory" | "ram" | "cpu" | "cores" | "host" | "hostname" | "domain"
        | "variable" | "variables" | "secret" | "secrets" | "autoscale" | "autoscaling"
        | "command" => Kind::Setting,
        _ if FILLERS.contains(&word) => Kind::Filler,
        _ => return None,
    })
}

const FILLERS: &[&str] = &[
    "a",
    "action",
    "adjust",
    "again",
    "ahead",
    "also",
    "an",
    "as",
    "asap",
    "be",
    "bit",
    "bring",
    "can",
    "carefully",
    "change",
    "could",
    "current",
    "currently",
    "decrease",
    "deployment",
    "deployments",
    "did",
    "do",
    "does",
    "down",
    "exactly",
    "first",
    "go",
    "has",
    "have",
    "hello",
    "hey",
    "hi",
    "i",
    "id",
    "immediately",
    "increase",
    "it",
    "its",
    "just",
    "keep",
    "kindly",
    "latest",
    "let",
    "lets",
    "like",
    "live",
    "lower",
    "make",
    "many",
    "me",
    "move",
    "much",
    "must",
    "my",
    "need",
    "new",
    "newest",
    "now",
    "off",
    "ok",
    "old",
    "only",
    "our",
    "out",
    "over",
    "please",
    "put",
    "quickly",
    "raise",
    "reduce",
    "requests",
    "right",
    "roll",
    "rolled",
    "rolling",
    "run",
    "safely",
    "set",
    "shall",
    "should",
    "so",
    "start",
    "switch",
    "take",
    "tear",
    "thank",
    "thanks",
    "that",
    "the",
    "there",
    "this",
    "traffic",
    "up",
    "us",
    "use",
    "using",
    "via",
    "want",
    "was",
    "we",
    "were",
    "why",
    "will",
    "with",
    "would",
    "you",
];

/// Words behind which a verb is a noun: `the deploy`, `the last release`.
const DETERMINERS: [&str; 13] = [
    "the", "a", "an", "this", "that", "last", "latest", "previous", "prior", "our", "my", "bad",
    "failed",
];

/// Words that make a verb of a noun: `do the deploy`.
const PERFORMS: [&str; 9] =
    ["do", "perform", "start", "begin", "make", "run", "execute", "trigger", "initiate"];

/// Whether a noun behind this word, and a determiner, is a verb after all.
pub fn performs(word: &str) -> bool {
    PERFORMS.contains(&word)
}

/// Whether this is said for courtesy.
pub fn is_greeting(word: &str) -> bool {
    matches!(word, "please" | "kindly" | "hey" | "hi" | "hello" | "ok" | "so" | "and")
}

/// Whether a sentence that begins with this word is a question.
pub fn is_question(word: &str) -> bool {
    const QUESTIONS: &[&str] = &[
        "what", "whats", "which", "how", "hows", "why", "whys", "who", "whos", "where", "wheres",
        "when", "whens", "is", "are", "was", "were", "did", "does", "has", "had", "should", "isnt",
        "didnt",
    ];
    QUESTIONS.contains(&word)
}

/// Whether a verb behind this word is a noun.
pub fn is_determiner(word: &str) -> bool {
    DETERMINERS.contains(&word)
}

/// A number in words.
pub fn number_word(word: &str) -> Option<u64> {
    const WORDS: [&str; 13] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve",
    ];
    WORDS.iter().position(|known| *known == word).map(|number| number as u64)
}

/// A word of a prompt: as it stands there, and in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub lower: String,
}

/// Cuts a prompt into words. What only sets words apart is left out; commas are `and`, arrows `to`,
/// and `env=dev` is `env dev`.
pub fn cut(prompt: &str) -> Vec<Word> {
    let mut spaced = String::with_capacity(prompt.len() + 16);
    let letters: Vec<char> = prompt.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let is_letter = |at: Option<usize>| {
            at.and_then(|at| letters.get(at)).is_some_and(|letter| letter.is_alphabetic())
        };
        match letter {
            // `don't` is a word, `'dev'` is a quotation.
            '\'' | '’' if is_letter(at.checked_sub(1)) && is_letter(at.checked_add(1)) => {}
            ',' | ';' | '&' => spaced.push_str(" and "),
            '→' => spaced.push_str(" to "),
            '>' if at > 0 && matches!(letters[at - 1], '-' | '=') => {
                spaced.pop();
                spaced.push_str(" to ");
            }
            letter if separates(*letter) => spaced.push(' '),
            letter => spaced.push(*letter),
        }
    }
    spaced
        .split(' ')
        .flat_map(pair)
        .map(trimmed)
        .filter(|word| !word.is_empty())
        .map(word)
        .collect()
}

fn word(text: &str) -> Word {
    Word { text: text.to_owned(), lower: text.to_lowercase() }
}

/// Whether it sets words apart: blanks, quotes, brackets, what cannot be seen.
fn separates(letter: char) -> bool {
    letter.is_whitespace()
        || letter.is_control()
        || matches!(
            letter,
            '"' | '\''
                | '`'
                | '“'
                | '”'
                | '„'
                | '‘'
                | '’'
                | '«'
                | '»'
                | '('
                | ')'
                | '['
                | ']'
                | '{'
                | '}'
                | '<'
                | '>'
                | '!'
                | '?'
                | '|'
                | '*'
                | '…'
                | '—'
                | '–'
                | '•'
                | '\\'
        )
        || matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A word without what stands around it: the end of a sentence, the dashes of an option.
fn trimmed(text: &str) -> &str {
    let text = text.trim_end_matches(['.', ':', '_']).trim_start_matches('_');
    match text.strip_prefix("--") {
        Some(option) => option.trim_start_matches('-'),
        None if text.bytes().all(|b| b == b'-') => "",
        None => text,
    }
}

/// `name=value` and `name:value` as two words, where the name is one that we know.
fn pair(text: &str) -> Vec<&str> {
    let text = text.strip_prefix("--").unwrap_or(text);
    let named = |mark: char| text.split_once(mark).filter(|(_, value)| !value.is_empty());
    let known = |name: &str| {
        let name = name.to_lowercase();
        let kind = match kind(&name) {
            Some(Kind::Env | Kind::App | Kind::Image) => Some(true),
            Some(
                Kind::Version | Kind::Revision | Kind::Replicas | Kind::Percent | Kind::Canary,
            ) => Some(false),
            _ => None,
        };
        kind.or((name == "action").then_some(false))
    };
    if let Some((name, value)) = named('=') {
        if known(name).is_some() {
            return vec![name, value];
        }
    }
    if let Some((name, value)) = named(':') {
        // `service:v1` is an image.
        match known(name) {
            Some(true) if is_version(value) => {}
            Some(_) => return vec![name, value],
            None => {}
        }
    }
    vec![text]
}
