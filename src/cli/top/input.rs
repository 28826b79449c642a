//! A line that is typed.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::control::lines;

/// Characters of a line, at most: what a request can carry, and so all rules that a
/// gateway has.
const MAX_LINE: usize = lines::MAX_LINE;

/// What was typed, and where in it the next character goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Line {
    chars: Vec<char>,
    cursor: usize,
}

/// What a key meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typed {
    /// The line may have changed.
    Edited,
    /// It is done.
    Entered,
    /// It is not wanted.
    Abandoned,
}

impl Line {
    /// A line to change, with the cursor behind it.
    pub(super) fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().take(MAX_LINE).collect();
        let cursor = chars.len();
        Self { chars, cursor }
    }

    /// What it says.
    pub(super) fn text(&self) -> String {
        self.chars.iter().collect()
    }

    /// What stands before the cursor, and from there on.
    pub(super) fn halves(&self) -> (String, String) {
        let (before, behind) = self.chars.split_at(self.cursor);
        (before.iter().collect(), behind.iter().collect())
    }

    /// Does what `key` says, as lines in a shell do.
    pub(super) fn key(&mut self, key: KeyEvent) -> Typed {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => return Typed::Entered,
            KeyCode::Esc => return Typed::Abandoned,
            KeyCode::Char('c' | 'g') if control => return Typed::Abandoned,
            KeyCode::Char('u') if control => self.remove_before(self.cursor),
            KeyCode::Char('w') if control => self.remove_before(self.word()),
            KeyCode::Char('k') if control => self.chars.truncate(self.cursor),
            KeyCode::Char('a') if control => self.cursor = 0,
            KeyCode::Char('e') if control => self.cursor = self.chars.len(),
            KeyCode::Backspace if self.cursor > 0 => self.remove_before(1),
            KeyCode::Char('h') if control && self.cursor > 0 => self.remove_before(1),
            KeyCode::Delete if self.cursor < self.chars.len() => {
                self.chars.remove(self.cursor);
            }
            KeyCode::Left => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Right => self.cursor = (self.cursor + 1).min(self.chars.len()),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.chars.len(),
            KeyCode::Char(c) if is_text(key, c) && self.chars.len() < MAX_LINE => {
                self.chars.insert(self.cursor, c);
                self.cursor += 1;
            }
            _ => {}
        }
        Typed::Edited
    }

    /// Removes `count` characters before the cursor.
    fn remove_before(&mut self, count: usize) {
        let from = self.cursor.saturating_sub(count);
        self.chars.drain(from..self.cursor);
        self.cursor = from;
    }

    /// Length of the word before the cursor, with the spaces behind it.
    fn word(&self) -> usize {
        let before = self.chars[..self.cursor].iter().rev();
        let spaces = before.clone().take_while(|c| **c == ' ').count();
        spaces + before.skip(spaces).take_while(|c| **c != ' ').count()
    }
}

fn is_text(key: KeyEvent, c: char) -> bool {
    let with = KeyModifiers::CONTROL | KeyModifiers::ALT;
    !key.modifiers.intersects(with) && !c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn press(line: &mut Line, keys: &[KeyCode]) {
        for &key in keys {
            assert_eq!(line.key(key.into()), Typed::Edited);
        }
    }

    fn control(c: char) -> KeyEvent {
        KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)
    }

    #[test]
    fn lines_are_edited() {
        let mut line = Line::new("loss=1");
        press(&mut line, &[KeyCode::Char('%'), KeyCode::Home]);
        press(
            &mut line,
            &"up ".chars().map(KeyCode::Char).collect::<Vec<_>>(),
        );
        assert_eq!(line.text(), "up loss=1%");
        assert_eq!(line.halves(), ("up ".to_owned(), "loss=1%".to_owned()));
        press(&mut line, &[KeyCode::Delete, KeyCode::Backspace]);
        assert_eq!(line.text(), "uposs=1%");
        press(
            &mut line,
            &[KeyCode::End, KeyCode::Left, KeyCode::Char('0')],
        );
        assert_eq!(line.text(), "uposs=10%");
        line.key(control('k'));
        assert_eq!(line.text(), "uposs=10");
        line.key(control('u'));
        assert_eq!(line.text(), "");
        let mut line = Line::new("delay=1ms  loss=1%  ");
        line.key(control('w'));
        assert_eq!(line.text(), "delay=1ms  ");
        assert_eq!(line.key(KeyCode::Enter.into()), Typed::Entered);
        assert_eq!(line.key(control('c')), Typed::Abandoned);
    }

    proptest! {
        #[test]
        fn no_key_breaks_it(text in ".{0,20}", keys in prop::collection::vec((0..8_u8, any::<char>(), any::<bool>()), 0..60)) {
            let mut line = Line::new(&text);
            for (which, c, ctrl) in keys {
                let code = match which {
                    0 => KeyCode::Left,
                    1 => KeyCode::Right,
                    2 => KeyCode::Home,
                    3 => KeyCode::End,
                    4 => KeyCode::Backspace,
                    5 => KeyCode::Delete,
                    _ => KeyCode::Char(c),
                };
                let modifiers = if ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
                line.key(KeyEvent::new(code, modifiers));
                let (before, behind) = line.halves();
                prop_assert_eq!(before + &behind, line.text());
            }
        }
    }
}
