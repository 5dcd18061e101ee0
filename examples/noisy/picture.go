package main

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// ink is a colour of the picture, in light and in dark surroundings.
type ink struct {
	light color.RGBA
	dark  string
}

var (
	paper = ink{rgb(0xff, 0xff, 0xff), "#0d1117"}
	text  = ink{rgb(0x1f, 0x23, 0x28), "#e6edf3"}
	faint = ink{rgb(0x59, 0x63, 0x6e), "#9198a1"}
	rules = ink{rgb(0xe1, 0xe4, 0xe8), "#262c36"}
	flood = ink{rgb(0xfd, 0xee, 0xdd), "#2b1d10"}
	loud  = ink{rgb(0xd2, 0x5f, 0x0a), "#f0883e"}
	blues = []ink{
		{rgb(0x0a, 0x50, 0xae), "#58a6ff"},
		{rgb(0x1a, 0x8f, 0x86), "#39d3c5"},
		{rgb(0x6f, 0x42, 0xc1), "#bc8cff"},
	}
)

func rgb(r, g, b uint8) color.RGBA { return color.RGBA{r, g, b, 0xff} }

const (
	width, height = vg.Length(960), vg.Length(330)
	shortest      = 10 * time.Millisecond // of the dwells that the picture shows
	longest       = 200 * time.Second
	apart         = 60 * time.Millisecond // are two points of a line, at least
)

// draw writes the picture of what each consumer made of the load: a panel each,
// side by side.
func draw(w io.Writer) error {
	var row []*plot.Plot
	for _, c := range contenders() {
		history, err := play(c, plan())
		if err != nil {
			return err
		}
		p, err := panel(c.name, dwells(history))
		if err != nil {
			return err
		}
		row = append(row, p)
	}
	if err := explain(row[len(row)-1]); err != nil {
		return err
	}
	svg := vgsvg.New(width, height)
	compose(vgdraw.New(svg), row)
	var drawn bytes.Buffer
	if _, err := svg.WriteTo(&drawn); err != nil {
		return err
	}
	_, err := io.WriteString(w, adapt(drawn.String()))
	return err
}

// compose draws the panels, all of the same size.
func compose(canvas vgdraw.Canvas, row []*plot.Plot) {
	canvas.SetColor(paper.light)
	canvas.Fill(canvas.Path())
	tiles := vgdraw.Tiles{Rows: 1, Cols: len(row), PadX: 14, PadTop: 12, PadBottom: 10, PadLeft: 12, PadRight: 16}
	for i, p := range row {
		p.Draw(tiles.At(canvas, i, 0))
	}
}

// adapt makes a picture follow the reader's choice of light or dark, and be
// content with any sans-serif typeface of the same widths.
func adapt(svg string) string {
	var css strings.Builder
	css.WriteString("<style>@media (prefers-color-scheme: dark) {\n")
	for _, i := range append([]ink{paper, text, faint, rules, flood, loud}, blues...) {
		hex := fmt.Sprintf("#%02X%02X%02X", i.light.R, i.light.G, i.light.B)
		fmt.Fprintf(&css, "[style*=\"fill:%s\"] { fill: %s !important }\n", hex, i.dark)
		fmt.Fprintf(&css, "[style*=\"stroke:%s\"] { stroke: %s !important }\n", hex, i.dark)
	}
	css.WriteString("}</style>\n")
	head, body, _ := strings.Cut(svg, "xlink\">\n")
	body = strings.ReplaceAll(body, "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif")
	return head + "xlink\">\n" + css.String() + body
}

// panel is the plot of one consumer.
func panel(name string, points map[string][]point) (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = nil // compose has painted it, and a title may be wider than its panel
	p.Title.Text = fmt.Sprintf("%s: quiet tenants' p99 is %s", name, short(p99(points, quiet...)))
	p.Title.TextStyle.Color = text.light
	p.Title.TextStyle.Font = sans(12.5)
	p.Title.Padding = 8

	p.X.Min, p.X.Max = 0, lasts.Seconds()
	p.X.Label.Text = "published after"
	p.X.Tick.Marker = ticks(0, 15*time.Second, 30*time.Second, 45*time.Second, 60*time.Second)
	p.Y.Label.Text = "done within"
	p.Y.Min, p.Y.Max = shortest.Seconds(), longest.Seconds()
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = ticks(10*time.Millisecond, 100*time.Millisecond, time.Second, 10*time.Second, 100*time.Second)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = rules.light, rules.light
		axis.Label.TextStyle.Color, axis.Tick.Label.Color = faint.light, faint.light
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(10.5), sans(10)
		axis.Tick.Width, axis.Tick.Length, axis.Padding = 0, 4, 0
	}

	flooded, err := plotter.NewPolygon(plotter.XYs{
		{X: floodFrom.Seconds(), Y: p.Y.Min},
		{X: floodUntil.Seconds(), Y: p.Y.Min},
		{X: floodUntil.Seconds(), Y: p.Y.Max},
		{X: floodFrom.Seconds(), Y: p.Y.Max},
	})
	if err != nil {
		return nil, err
	}
	flooded.Color, flooded.Width = flood.light, 0
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = rules.light
	p.Add(flooded, grid)

	// The noisy tenant's line is wide, and below: the others hide it where they
	// fare alike.
	if err := trace(p, points[noisy], loud, 3.5); err != nil {
		return nil, err
	}
	for i, tenant := range quiet {
		if err := trace(p, points[tenant], blues[i], 1.2); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// trace adds the line of a tenant.
func trace(p *plot.Plot, points []point, colour ink, width vg.Length) error {
	var xys plotter.XYs
	next := time.Duration(0)
	for _, at := range points {
		if at.at >= next {
			xys = append(xys, plotter.XY{X: at.at.Seconds(), Y: at.dwell.Seconds()})
			next = at.at + apart
		}
	}
	line, err := plotter.NewLine(xys)
	if err != nil {
		return err
	}
	line.Color, line.Width = colour.light, width
	p.Add(line)
	return nil
}

// explain writes beside the lines what they are.
func explain(p *plot.Plot) error {
	labels, err := plotter.NewLabels(plotter.XYLabels{
		XYs:    plotter.XYs{{X: 19, Y: 95}, {X: 19, Y: 0.075}, {X: 5.7, Y: 0.0125}},
		Labels: []string{"noisy: waits for its own limit", "quiet 1, 2 and 3: notice nothing", "the flood"},
	})
	if err != nil {
		return err
	}
	for i, colour := range []ink{loud, blues[0], loud} {
		labels.TextStyle[i].Color, labels.TextStyle[i].Font = colour.light, sans(10.5)
	}
	p.Add(labels)
	return nil
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// ticks returns tick marks at these values, in seconds.
func ticks(at ...time.Duration) plot.Ticker {
	marks := make(plot.ConstantTicks, len(at))
	for i, d := range at {
		marks[i] = plot.Tick{Value: d.Seconds(), Label: short(d)}
	}
	return marks
}

// short writes a duration in three digits at most, as in 20.7 s.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
}
