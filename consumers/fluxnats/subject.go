package fluxnats

import "strings"

// validName reports whether s can name a stream or consumer, and so be a token
// of a subject.
func validName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == '.' || r == '*' || r == '>' || r == '/' || r == '\\'
	})
}

// validSubject reports whether s is a subject without wildcards, validPattern
// whether it is one with or without.
func validSubject(s string) bool { return validPattern(s) && !strings.ContainsAny(s, "*>") }

func validPattern(s string) bool {
	for {
		token, rest, more := strings.Cut(s, ".")
		switch {
		case token == "", token == ">" && more, strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return false
		case !more:
			return true
		}
		s = rest
	}
}

// covers reports whether every subject that sub stands for is one that pattern
// stands for. Both may have wildcards.
func covers(pattern, sub string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		s, srest, smore := strings.Cut(sub, ".")
		switch {
		case p == ">":
			return true
		case s == ">", p != "*" && p != s, pmore != smore:
			return false
		case !pmore:
			return true
		}
		pattern, sub = prest, srest
	}
}

// overlaps reports whether there is a subject that both patterns stand for.
func overlaps(a, b string) bool {
	for {
		x, xrest, xmore := strings.Cut(a, ".")
		y, yrest, ymore := strings.Cut(b, ".")
		switch {
		case x == ">" || y == ">":
			return true
		case x != y && x != "*" && y != "*", xmore != ymore:
			return false
		case !xmore:
			return true
		}
		a, b = xrest, yrest
	}
}
