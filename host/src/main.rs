fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).as_deref() == Some(eve_host::skills::compile::COMMAND) {
        return eve_host::skills::compile::child_main();
    }
    std::process::ExitCode::SUCCESS
}
