package main

import (
	"strings"
	"unicode/utf8"
)

// ink colours text for a terminal, or does not: its zero value leaves text as
// it is.
type ink struct{ on bool }

func (k ink) paint(code, text string) string {
	if !k.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (k ink) dim(text string) string    { return k.paint("2", text) }
func (k ink) bold(text string) string   { return k.paint("1", text) }
func (k ink) red(text string) string    { return k.paint("31", text) }
func (k ink) green(text string) string  { return k.paint("32", text) }
func (k ink) yellow(text string) string { return k.paint("33", text) }

// level colours a tenant's bar: green with room to spare, yellow at the limit.
func (k ink) level(text string, share float64) string {
	if share >= 0.9 {
		return k.yellow(text)
	}
	return k.green(text)
}

// clip cuts text after width columns. Colour codes take no columns and are kept,
// so that what was switched on is switched off.
func clip(text string, width int) string {
	var b strings.Builder
	columns := 0
	for len(text) > 0 {
		if strings.HasPrefix(text, "\x1b[") {
			end := strings.IndexByte(text, 'm') + 1
			b.WriteString(text[:end])
			text = text[end:]
			continue
		}
		_, size := utf8.DecodeRuneInString(text)
		if columns < width {
			b.WriteString(text[:size])
		}
		columns++
		text = text[size:]
	}
	return b.String()
}

// wrap breaks text at spaces into lines of at most width columns, where its
// words allow that.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
