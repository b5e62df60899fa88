//! Returns what it was given: the prompt as the summary, prompt and context as the data.

use eve_sdk::prelude::*;

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    let prompt = request.prompt();
    let context: Value = request.context()?;
    Ok(Outcome::completed(prompt.clone()).data(&json!({ "prompt": prompt, "context": context })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_it_was_given() {
        let run =
            eve_sdk::testing::Host::new().prompt("hello").context(json!({ "a": [1] })).run(run);
        assert_eq!(run.summary(), "hello");
        assert_eq!(run.output::<Value>(), json!({ "prompt": "hello", "context": { "a": [1] } }));
    }
}
