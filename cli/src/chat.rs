//! A user's message as the model expects to be asked: written through its chat template, which is in
//! Jinja as transformers reads it. It knows text, not tokens.

use crate::failure::{Failure, Result, file_failure};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value;
use std::path::Path;

/// Steps that a template may take: far more than one message needs, and soon over.
const MOST_STEPS: u64 = 1 << 24;

/// A chat template, and the special tokens that it may name.
#[derive(Debug, Default)]
pub struct ChatTemplate {
    /// The template.
    pub text: String,
    /// What begins a text, or "".
    pub begin: String,
    /// What ends a text, or "".
    pub end: String,
}

impl ChatTemplate {
    /// The template of a Hugging Face folder: `chat_template.jinja`, or in `tokenizer_config.json`.
    ///
    /// # Errors
    /// When it has none, or a file that cannot be read.
    pub fn in_folder(folder: &Path) -> Result<ChatTemplate> {
        let (own, path) = (folder.join("chat_template.jinja"), folder.join("tokenizer_config.json"));
        let read = |path: &Path| match path.exists() {
            true => std::fs::read_to_string(path).map(Some).map_err(file_failure("read", path)),
            false => Ok(None),
        };
        let config: Value = match read(&path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| Failure(format!("{}: not JSON: {error}", path.display())))?,
            None => Value::Null,
        };
        // A token is a string, or an object that describes it.
        let token = |name: &str| {
            let token = &config[name];
            token.as_str().or(token["content"].as_str()).unwrap_or_default().to_owned()
        };
        let text = match read(&own)? {
            Some(text) => Some(text),
            None => config["chat_template"].as_str().map(str::to_owned),
        };
        let text = text.ok_or_else(|| {
            Failure(format!(
                "no chat template in {}: neither a chat_template.jinja nor one in tokenizer_config.json; use --prompt",
                folder.display()
            ))
        })?;
        Ok(ChatTemplate { text, begin: token("bos_token"), end: token("eos_token") })
    }

    /// The text that asks for the answer to one message of the user's.
    ///
    /// # Errors
    /// When the template is malformed, or refuses the message.
    pub fn ask(&self, message: &str) -> Result<String> {
        let wrong = |error: Error| {
            let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
            let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
            Failure(format!("the model's chat template cannot be used{line}: {}{detail}", error.kind()))
        };
        let mut environment = Environment::new();
        // As transformers sets Jinja.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(MOST_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |problem: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, problem))
        });
        let template = environment.template_from_str(&self.text).map_err(wrong)?;
        let messages = [context! { role => "user", content => message }];
        let values = context! {
            messages,
            add_generation_prompt => true,
            bos_token => &self.begin,
            eos_token => &self.end,
        };
        template.render(values).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::ChatTemplate;

    fn ask(template: &str) -> Result<String, String> {
        let (begin, end) = ("<s>".to_owned(), "</s>".to_owned());
        ChatTemplate { text: template.to_owned(), begin, end }.ask("Hi?").map_err(|failure| failure.0)
    }

    #[test]
    fn templates_are_written_as_transformers_writes_them() {
        let chatml = "{% for message in messages %}\n    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\n{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let expected = "    <|im_start|>user\nHi?<|im_end|>\n\n<|im_start|>assistant\n";
        assert_eq!(ask(chatml).unwrap(), expected);
        let loops = "{{ bos_token }}{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}[S]{% endif %}{{ message.content.strip().upper() | trim }}{% endfor %}{{ eos_token }}";
        assert_eq!(ask(loops).unwrap(), "<s>[S]HI?</s>");
    }

    #[test]
    fn templates_that_cannot_be_used_are_told() {
        for (template, expected) in [
            ("{% for", "in line 1"),
            ("\n{{ raise_exception('only systems speak') }}", "only systems speak"),
            ("{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}", "fuel"),
        ] {
            let problem = ask(template).unwrap_err();
            assert!(problem.contains("chat template") && problem.contains(expected), "{template}: {problem}");
        }
    }
}
