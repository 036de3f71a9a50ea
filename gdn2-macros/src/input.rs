//! What the macros take: `[crate = path;] #[doc…] VIS mod NAME { rule body }…` and `[VIS] "file[#rule]" [, crate = path]`.

use gdn2_dsl::{Dtype, Gate, Grain, KernelText, Prologue, Rule, SpannedError, StateLayout, Write, parse_rule_body};
use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, LitStr, Path, Token, Visibility};

use crate::expand::{Module, module};

/// The rules of a `delta_rule!` call.
pub(crate) struct InPlace {
    krate: Path,
    items: Vec<Item>,
}

/// One `pub mod NAME { … }`.
struct Item {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    name: Ident,
    body: TokenStream,
}

/// The arguments of an `include_rule!` call.
pub(crate) struct FromFile {
    pub attributes: Vec<Attribute>,
    pub krate: Path,
    pub visibility: Visibility,
    pub path: LitStr,
}

/// `crate = path`, the place that `gdn2` is re-exported from.
fn krate(input: ParseStream<'_>) -> syn::Result<Path> {
    input.parse::<Token![crate]>()?;
    input.parse::<Token![=]>()?;
    input.call(Path::parse_mod_style)
}

impl Parse for InPlace {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut path = syn::parse_quote!(::gdn2);
        if input.peek(Token![crate]) && input.peek2(Token![=]) {
            path = krate(input)?;
            input.parse::<Token![;]>()?;
        }
        let mut items = Vec::new();
        while !input.is_empty() {
            items.push(input.parse()?);
        }
        if items.is_empty() {
            return Err(input.error(
                "expected a rule: `pub mod NAME { decay: …; erase: …; write: …; key_dim: …; value_dim: …; dtype: …; }`",
            ));
        }
        Ok(InPlace { krate: path, items })
    }
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility: Visibility = input.parse()?;
        if let Ok(word) = input.fork().parse::<Ident>()
            && word == "rule"
        {
            return Err(syn::Error::new(
                word.span(),
                "in Rust source a rule is a module\nhelp: write `pub mod NAME { … }` in place of `rule NAME { … }`",
            ));
        }
        input.parse::<Token![mod]>()?;
        let name = input.parse()?;
        if input.peek(Token![;]) {
            return Err(input
                .error("expected the rule's body, `{ … }`\nhelp: `include_rule!(\"path\")` reads a rule from a file"));
        }
        let content;
        syn::braced!(content in input);
        Ok(Item { attributes, visibility, name, body: content.parse()? })
    }
}

impl Parse for FromFile {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = match input.parse()? {
            Visibility::Inherited => syn::parse_quote!(pub),
            written => written,
        };
        if !input.peek(LitStr) {
            return Err(input.error("expected the path of a rule file as a string, such as \"rules/kda.gdn2\""));
        }
        let path = input.parse()?;
        let mut krate_path = syn::parse_quote!(::gdn2);
        if input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            krate_path = krate(input)?;
            input.parse::<Option<Token![,]>>()?;
        }
        Ok(FromFile { attributes, krate: krate_path, visibility, path })
    }
}

impl InPlace {
    /// One module per rule; mistakes stand beside the modules, so that code which uses them keeps its types.
    pub(crate) fn expand(self) -> TokenStream {
        let krate = &self.krate;
        self.items.into_iter().map(|item| item.expand(krate)).collect()
    }
}

impl Item {
    fn expand(self, krate: &Path) -> TokenStream {
        let (texts, others, refused) = kernel_texts(&self.attributes);
        let (docs, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|a| a.path().is_ident("doc"));
        let doc = doc_text(&docs);
        let (rule, errors) = match parse_rule_body(&self.name, &doc, self.body.clone()) {
            Ok(rule) => (rule, TokenStream::new()),
            Err(mistakes) => (guess(&self.name, doc, self.body), compile_errors(&mistakes)),
        };
        let embed = errors.is_empty();
        let module = module(&Module {
            rule: &rule,
            name: &self.name,
            visibility: &self.visibility,
            krate,
            texts: &texts,
            embed,
            from_file: false,
        });
        quote! { #errors #refused #(#others)* #module }
    }
}

/// The kernels' texts among attributes, the other attributes, and what is wrong with the former.
pub(crate) fn kernel_texts(attributes: &[Attribute]) -> (Vec<KernelText>, Vec<&Attribute>, TokenStream) {
    let (mut texts, mut others, mut mistakes) = (Vec::new(), Vec::new(), Vec::new());
    for attribute in attributes {
        match KernelText::parse(attribute.meta.to_token_stream()) {
            Some(Ok(text)) => texts.push(text),
            Some(Err(mistake)) => mistakes.push(mistake),
            None => others.push(attribute),
        }
    }
    (texts, others, compile_errors(&mistakes))
}

/// The text of doc comments, one space after `///` taken off. `#[doc = include_str!(…)]` and the like have none here.
fn doc_text(docs: &[&Attribute]) -> String {
    let line = |attribute: &&Attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => {
                let text = text.value();
                Some(text.strip_prefix(' ').map(str::to_owned).unwrap_or(text))
            }
            _ => None,
        },
        _ => None,
    };
    docs.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

fn compile_errors(mistakes: &[SpannedError]) -> TokenStream {
    let error = |mistake: &SpannedError| {
        let message = mistake.in_words();
        quote_spanned! { mistake.span=> ::core::compile_error! { #message } }
    };
    mistakes.iter().map(error).collect()
}

/// The rule that broken tokens seem to mean: what can be read is taken, the rest is made up. Only its signatures are
/// used, beside the errors.
fn guess(name: &Ident, doc: String, body: TokenStream) -> Rule {
    let words = words(body);
    let value = |key: &str| {
        let at = words.windows(2).find(|pair| pair[0] == key);
        at.map_or("", |pair| pair[1].as_str())
    };
    let gate = |key: &str| {
        let grain = match value(key) {
            "none" => Grain::None,
            "scalar" => Grain::Scalar,
            _ => Grain::Channel,
        };
        Gate { grain, storage: Dtype::F32 }
    };
    let dim = |key: &str| value(key).parse().unwrap_or(128);
    Rule {
        name: name.to_string(),
        doc,
        decay: gate("decay"),
        bound: None,
        erase: gate("erase"),
        write: if value("write") == "erase" { Write::Tied } else { Write::Own(gate("write")) },
        key_dim: dim("key_dim"),
        value_dim: dim("value_dim"),
        dtype: if value("dtype") == "f16" { Dtype::F16 } else { Dtype::Bf16 },
        state: StateLayout::Kv,
        prologue: Prologue::default(),
    }
}

/// Words and numbers in order, punctuation and bracketed bounds left out.
fn words(body: TokenStream) -> Vec<String> {
    let word = |tree: TokenTree| match tree {
        TokenTree::Ident(ident) => Some(ident.to_string()),
        TokenTree::Literal(literal) => Some(literal.to_string()),
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => Some(group.stream().to_string()),
        TokenTree::Group(_) | TokenTree::Punct(_) => None,
    };
    body.into_iter().filter_map(word).collect()
}

/// A compile error on one token.
pub(crate) fn compile_error(span: Span, message: &str) -> TokenStream {
    quote_spanned! { span=> ::core::compile_error! { #message } }
}
