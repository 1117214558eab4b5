//! Rust text to tokens: just enough to tell code from comments and strings.

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A string literal; the text is what stands between the quotes, as written.
    Literal,
    /// `::`, or any other single character.
    Sign,
    /// An identifier, keyword, number or lifetime.
    Word,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
}

impl Token {
    /// Whether this is that word or sign.
    pub fn is(&self, text: &str) -> bool {
        self.kind != Kind::Literal && self.text == text
    }

    pub fn is_word(&self) -> bool {
        self.kind == Kind::Word
    }
}

/// The tokens of `text`; comments and characters in quotes are left out.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text: text.chars().collect(),
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.at < lexer.text.len() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer {
    text: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn step(&mut self) {
        match (self.ahead(0), self.ahead(1)) {
            ('/', '/') => self.skip_line(),
            ('/', '*') => self.skip_block(),
            ('"', _) => self.literal(0, 0),
            ('\'', _) => self.quote(),
            (':', ':') => self.take(Kind::Sign, 2),
            (c, _) if c.is_alphanumeric() || c == '_' => self.word(),
            (c, _) if c.is_whitespace() => self.skip(1),
            _ => self.take(Kind::Sign, 1),
        }
    }

    /// The character `distance` further on; NUL past the end.
    fn ahead(&self, distance: usize) -> char {
        self.text.get(self.at + distance).copied().unwrap_or('\0')
    }

    fn skip(&mut self, len: usize) {
        let end = (self.at + len).min(self.text.len());
        self.line += self.text[self.at..end]
            .iter()
            .filter(|c| **c == '\n')
            .count();
        self.at = end;
    }

    fn take(&mut self, kind: Kind, len: usize) {
        let text = self.text[self.at..].iter().take(len).collect();
        self.tokens.push(Token {
            kind,
            text,
            line: self.line,
        });
        self.skip(len);
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.skip(rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()));
    }

    fn skip_block(&mut self) {
        let mut depth = 0;
        while self.at < self.text.len() {
            match (self.ahead(0), self.ahead(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.skip(1);
                    continue;
                }
            }
            self.skip(2);
            if depth == 0 {
                return;
            }
        }
    }

    /// A word, or a literal that begins with one: `r"`, `br#"`, `b'`.
    fn word(&mut self) {
        let len = (0..).find(|i| !self.ahead(*i).is_alphanumeric() && self.ahead(*i) != '_');
        let len = len.unwrap_or(1);
        let word: String = self.text[self.at..self.at + len].iter().collect();
        let hashes = (len..).take_while(|i| self.ahead(*i) == '#').count();
        match (word.as_str(), self.ahead(len + hashes)) {
            ("r" | "br" | "cr", '"') => self.literal(len, hashes),
            ("b" | "c", '"') if hashes == 0 => self.literal(len, 0),
            ("b", '\'') => {
                self.skip(len);
                self.quote();
            }
            // `r#type` is the word `type`.
            ("r", next) if hashes == 1 && next.is_alphabetic() => self.skip(len + 1),
            _ => self.take(Kind::Word, len),
        }
    }

    /// A string whose quote follows `prefix` and `hashes`; raw when it has a prefix with an `r`.
    fn literal(&mut self, prefix: usize, hashes: usize) {
        let line = self.line;
        let raw = self.text[self.at..self.at + prefix].contains(&'r');
        self.skip(prefix + hashes + 1);
        let start = self.at;
        while self.at < self.text.len() {
            match self.ahead(0) {
                '\\' if !raw => self.skip(2),
                '"' if (1..=hashes).all(|i| self.ahead(i) == '#') => break,
                _ => self.skip(1),
            }
        }
        let text = self.text[start..self.at].iter().collect();
        self.tokens.push(Token {
            kind: Kind::Literal,
            text,
            line,
        });
        self.skip(1 + hashes);
    }

    /// A character in quotes, which is left out, or a lifetime.
    fn quote(&mut self) {
        match (self.ahead(1), self.ahead(2)) {
            ('\\', _) => {
                self.skip(3);
                while self.at < self.text.len() && self.ahead(0) != '\'' {
                    self.skip(1);
                }
                self.skip(1);
            }
            (_, '\'') => self.skip(3),
            _ => {
                let len =
                    (1..).find(|i| !self.ahead(*i).is_alphanumeric() && self.ahead(*i) != '_');
                self.take(Kind::Word, len.unwrap_or(1));
            }
        }
    }
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let text = r##"
        // one crate::a
        /* two /* nested */ crate::b */ let x = "crate::c \" still"; /// doc
        let r = r#"crate::d " "# ; 'l: loop { b'\'' ; '"' ; '\u{41}' } r#type::f
    "##;
    let found = tokens(text);
    let shown: Vec<&str> = found.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(
        shown,
        [
            "let",
            "x",
            "=",
            "crate::c \\\" still",
            ";",
            "let",
            "r",
            "=",
            "crate::d \" ",
            ";",
            "'l",
            ":",
            "loop",
            "{",
            ";",
            ";",
            "}",
            "type",
            "::",
            "f"
        ]
    );
    assert_eq!(found[0].line, 3);
    assert_eq!(found.last().unwrap().line, 4);
}
