package main

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

// column is a column of a table in the report.
type column struct {
	name  string // in the grid
	title string // Defaults to name.
	ratio bool   // beside the ratio to flux's row
	best  bool   // the lowest figure is marked
	one   bool   // the median says it all
	share bool   // a ratio that is 1 when all is well
}

// table writes the rows of peers that g has samples of.
func (p *page) table(g *grid, peers []peer, base string, cols []column) {
	p.WriteString("| |")
	for _, c := range cols {
		p.WriteString(" " + cmp.Or(c.title, c.name) + " |")
	}
	p.WriteString("\n|---|" + strings.Repeat("---|", len(cols)) + "\n")
	for _, row := range peers {
		cells, known := make([]string, len(cols)), false
		for i, c := range cols {
			text, ok := g.text(row, base, c, peers)
			cells[i], known = cmp.Or(text, "–"), known || ok
		}
		if !known {
			continue
		}
		name := row.name
		if row.floor {
			name = "*" + name + "*"
		}
		p.WriteString("| " + name + " | " + strings.Join(cells, " | ") + " |\n")
	}
	p.WriteString("\n")
}

// list writes a line for each item.
func (p *page) list(items []string) {
	for _, item := range items {
		p.WriteString("- " + item + "\n")
	}
	p.WriteString("\n")
}

// text formats a cell, if it has any sample.
func (g *grid) text(p peer, base string, c column, peers []peer) (text string, ok bool) {
	v, ok := g.at(p.name, c.name)
	if !ok {
		return "", false
	}
	format := number
	if c.share {
		format = share
	}
	text = v.format(format)
	if c.one {
		text = format(v.median)
	}
	if c.best && !p.floor && v.median <= g.lowest(peers, c.name) {
		text = "**" + text + "**"
	}
	if ratio, ok := g.ratio(p.name, base, c.name); ok && c.ratio && p.name != base {
		text += fmt.Sprintf(" ×%s", number(ratio))
	}
	return text, true
}

// lowest returns the lowest median of a column that is not a floor's.
func (g *grid) lowest(peers []peer, col string) float64 {
	lowest := math.Inf(1)
	for _, p := range peers {
		if v, ok := g.at(p.name, col); ok && !p.floor {
			lowest = min(lowest, v.median)
		}
	}
	return lowest
}
