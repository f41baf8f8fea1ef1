//! The vocabulary inside a GGUF file (`tokenizer.ggml.*`): byte-level BPE (`gpt2`), whose way of
//! splitting text into words is known by a name, and the BPE of SentencePiece (`llama`), which has
//! scores where others have merges. Both become what a `tokenizer.json` of the same model is.

use diptych_gguf::{File, GgufError};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
};

use crate::error::DataError;
use crate::tokenizer::Vocabulary;

/// How a byte-level vocabulary splits text into words: by one pattern after the other, where each
/// splits what the one before left; what a pattern does not match is a word, too.
struct Words {
    /// The names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a word that is a token is that token, whatever the merges make of it.
    whole_words: bool,
    /// Whether a text begins with the token for that, unless the file says otherwise.
    begins: bool,
}

/// GPT-2's words (encoder.py of the released model).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const WORDS: [Words; 5] = [
    Words {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"],
        patterns: &[r"\p{N}", GPT2],
        whole_words: false,
        begins: false,
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: true,
        begins: true,
    },
    Words {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: false,
        begins: false,
    },
    Words { names: &["gpt-2", "phi-2", "mpt", "olmo"], patterns: &[GPT2], whole_words: false, begins: false },
    Words {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        whole_words: false,
        begins: false,
    },
];

/// What SentencePiece writes for a space.
const SPACE: &str = "▁";

/// The most bytes of a token that is split in every way; published ones have fewer than 100.
const LONGEST_PIECE: usize = 1024;

/// The kinds of tokens in `tokenizer.ggml.token_type` that matter here.
const NORMAL: usize = 1;
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;

impl Vocabulary {
    /// The vocabulary of a GGUF file.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when it has none, or one of a kind that is not supported.
    pub fn from_gguf(file: &File) -> Result<Vocabulary, DataError> {
        let model = file.string("tokenizer.ggml.model")?;
        let texts = file.strings("tokenizer.ggml.tokens")?;
        let (Some(model), Some(texts)) = (model, texts) else {
            return Err(wrong(file, "it has no `tokenizer.ggml.model` or no `tokenizer.ggml.tokens`"));
        };
        let ids = ids(file, &texts)?;
        let (mut tokenizer, begins) = match model.as_str() {
            "gpt2" => byte_level(file, ids)?,
            "llama" => sentence_piece(file, &texts, ids)?,
            other => {
                let problem = format!("`tokenizer.ggml.model` is `{other}`; supported: gpt2, llama");
                return Err(wrong(file, problem));
            }
        };
        let kinds = file.counts("tokenizer.ggml.token_type")?.unwrap_or_default();
        let special = |kind| matches!(kind, UNKNOWN | CONTROL);
        let added = texts
            .iter()
            .zip(kinds)
            .filter(|(text, kind)| !text.is_empty() && (special(*kind) || *kind == USER_DEFINED));
        let added: Vec<AddedToken> = added
            .map(|(text, kind)| AddedToken::from(text.as_str(), special(kind)).normalized(false))
            .collect();
        tokenizer.add_tokens(&added);

        let first = end_token(file, &texts, ("bos", begins))?;
        let last = end_token(file, &texts, ("eos", false))?;
        if first.is_some() || last.is_some() {
            let name = |token: &Option<(String, u32)>| token.iter().map(|token| token.0.clone()).collect();
            let template: [Vec<String>; 3] = [name(&first), vec!["$A".to_owned()], name(&last)];
            let processor = TemplateProcessing::builder()
                .try_single(template.concat())
                .map_err(|problem| wrong(file, problem))?
                .special_tokens(first.into_iter().chain(last).collect::<Vec<_>>())
                .build()
                .map_err(|problem| wrong(file, problem.to_string()))?;
            tokenizer.with_post_processor(Some(processor));
        }
        let vocabulary = Vocabulary::new(tokenizer).map_err(|problem| wrong(file, problem))?;
        match special_token(file, &texts, "tokenizer.ggml.eos_token_id")? {
            Some((_, id)) => vocabulary.with_end_of_text(id),
            None => Ok(vocabulary),
        }
    }
}

/// GPT-2's kind: tokens are bytes, written as characters.
fn byte_level(file: &File, ids: Vocab) -> Result<(Tokenizer, bool), DataError> {
    let name = file.string("tokenizer.ggml.pre")?.unwrap_or_else(|| "default".to_owned());
    let words = WORDS.iter().find(|words| words.names.contains(&name.as_str())).ok_or_else(|| {
        let known: Vec<&str> = WORDS.iter().flat_map(|words| words.names).copied().collect();
        let problem = format!("`tokenizer.ggml.pre` is `{name}`, a way of splitting text into words that is not known; known: {}", known.join(", "));
        wrong(file, problem)
    })?;
    let merges = file.strings("tokenizer.ggml.merges")?;
    let merges = merges.ok_or_else(|| wrong(file, "it has no `tokenizer.ggml.merges`"))?;
    let merges = merges.iter().enumerate().map(|(number, merge)| {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            ids.contains_key(*left) && ids.contains_key(*right) && ids.contains_key(&[*left, *right].concat())
        });
        let pair = pair.map(|(left, right)| (left.to_owned(), right.to_owned()));
        pair.ok_or_else(|| {
            let problem =
                format!("merge {number}, `{merge}`, is not of two tokens with a space between to another");
            wrong(file, problem)
        })
    });
    let merges = merges.collect::<Result<Merges, DataError>>()?;
    let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(words.whole_words).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|problem| wrong(file, problem.to_string()))?);
    let mut splits = Vec::new();
    // GPT-2's pattern alone is the library's own.
    let (own, patterns) = match words.patterns {
        [patterns @ .., last] if *last == GPT2 => (true, patterns),
        patterns => (false, patterns),
    };
    for pattern in patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        splits.push(PreTokenizerWrapper::Split(split.map_err(|problem| wrong(file, problem.to_string()))?));
    }
    splits.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, own)));
    match (splits.pop(), splits.is_empty()) {
        (last, true) => tokenizer.with_pre_tokenizer(last),
        (last, false) => {
            tokenizer.with_pre_tokenizer(Some(Sequence::new(splits.into_iter().chain(last).collect())))
        }
    };
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    Ok((tokenizer, words.begins))
}

/// SentencePiece's kind: of all neighbours that make a token together, those merge first whose token
/// has the highest score; what is no token falls back to bytes.
fn sentence_piece(file: &File, texts: &[String], ids: Vocab) -> Result<(Tokenizer, bool), DataError> {
    let scores = file.floats("tokenizer.ggml.scores")?.unwrap_or_default();
    if scores.len() != texts.len() {
        let (found, wanted) = (scores.len(), texts.len());
        return Err(wrong(
            file,
            format!("`tokenizer.ggml.scores` has {found} elements, but there are {wanted} tokens"),
        ));
    }
    let kinds = file.counts("tokenizer.ggml.token_type")?.unwrap_or_default();
    let mut order: Vec<usize> =
        (0..texts.len()).filter(|&id| kinds.get(id).is_none_or(|&kind| kind == NORMAL)).collect();
    order.sort_by(|&left, &right| scores[right].total_cmp(&scores[left]));
    let mut merges = Merges::new();
    for id in order {
        let text = &texts[id];
        if text.len() > LONGEST_PIECE {
            let problem = format!("token {id} has {} bytes; it can have at most {LONGEST_PIECE}", text.len());
            return Err(wrong(file, problem));
        }
        let pairs = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut pairs: Vec<(&str, &str, u32, u32)> = pairs
            .filter_map(|(left, right)| Some((left, right, *ids.get(left)?, *ids.get(right)?)))
            .collect();
        pairs.sort_by_key(|pair| (pair.2, pair.3));
        merges.extend(pairs.into_iter().map(|(left, right, ..)| (left.to_owned(), right.to_owned())));
    }
    let unknown = special_token(file, texts, "tokenizer.ggml.unknown_token_id")?;
    let mut model = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true);
    if let Some((text, _)) = unknown {
        model = model.unk_token(text);
    }
    let failed = |problem: tokenizers::Error| wrong(file, problem.to_string());
    let mut tokenizer = Tokenizer::new(model.build().map_err(failed)?);
    let space_before = file.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = vec![Replace::new(" ", SPACE).map_err(failed)?.into()];
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if space_before {
        normalizers.insert(0, Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)));
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok((tokenizer, true))
}

impl From<GgufError> for DataError {
    fn from(error: GgufError) -> DataError {
        DataError::Tokenizer { path: error.path, problem: error.problem }
    }
}

fn wrong(file: &File, problem: impl Into<String>) -> DataError {
    file.wrong(problem).into()
}

/// The token whose id a key holds, if it is there.
fn special_token(file: &File, texts: &[String], key: &str) -> Result<Option<(String, u32)>, DataError> {
    let Some(id) = file.count(key)? else { return Ok(None) };
    match texts.get(id) {
        Some(text) => Ok(Some((text.clone(), id as u32))),
        None => Err(wrong(file, format!("`{key}` is {id}; the vocabulary has {} tokens", texts.len()))),
    }
}

/// The token that all texts begin or end with, if the file or the default says that one does.
fn end_token(
    file: &File,
    texts: &[String],
    (end, default): (&str, bool),
) -> Result<Option<(String, u32)>, DataError> {
    let key = format!("tokenizer.ggml.{end}_token_id");
    let (said, token) =
        (file.boolean(&format!("tokenizer.ggml.add_{end}_token"))?, special_token(file, texts, &key)?);
    match (said, token) {
        (Some(true), None) => {
            Err(wrong(file, format!("`tokenizer.ggml.add_{end}_token` is set, but there is no `{key}`")))
        }
        (said, token) => Ok(token.filter(|_| said.unwrap_or(default))),
    }
}

/// The id of each token.
fn ids(file: &File, texts: &[String]) -> Result<Vocab, DataError> {
    let mut ids = Vocab::with_capacity(texts.len());
    for (id, text) in texts.iter().enumerate() {
        if let Some(before) = ids.insert(text.clone(), id as u32) {
            return Err(wrong(file, format!("tokens {before} and {id} are both `{text}`")));
        }
    }
    Ok(ids)
}
