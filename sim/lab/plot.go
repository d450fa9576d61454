package lab

import (
	"fmt"
	"image/color"
	"io"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/rubato-faas/rubato/api"
)

// PlotFormats are the kinds of files that Plots can write, by their endings.
var PlotFormats = []string{"svg", "png"}

// Plotted are the figures that Plots draws: the files of a result are called SCENARIO-FIGURE.FORMAT.
var Plotted = []string{"mean", "distribution", "cold-and-missed"}

// Plots draws a result: mean times with their confidence intervals, the distribution of times, and cold starts and misses; in
// the formats named, or as SVG. create opens a file of the given name.
func Plots(r *Result, create func(name string) (io.WriteCloser, error), formats ...string) error {
	if len(formats) == 0 {
		formats = PlotFormats[:1]
	}
	for _, f := range formats {
		if !slices.Contains(PlotFormats, f) {
			return fmt.Errorf("%w: plots as %.20q: want %s", api.ErrInvalid, f, strings.Join(PlotFormats, " or "))
		}
	}
	for i, figure := range []func(*Result) (*plot.Plot, error){meanPlot, distributionPlot, countsPlot} {
		p, err := figure(r)
		for _, format := range formats {
			if err == nil {
				err = save(p, max(16, 3.2*float64(len(r.curves))), create, r.Scenario+"-"+Plotted[i], format)
			}
		}
		if err != nil {
			return fmt.Errorf("plot %s: %w", Plotted[i], err)
		}
	}
	return nil
}

// save writes a figure that is so many centimetres wide: room for one name beside another.
func save(p *plot.Plot, width float64, create func(name string) (io.WriteCloser, error), name, format string) error {
	drawn, err := p.WriterTo(vg.Length(width)*vg.Centimeter, 10*vg.Centimeter, format)
	if err != nil {
		return err
	}
	f, err := create(name + "." + format)
	if err != nil {
		return err
	}
	if _, err := drawn.WriteTo(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// palette is that of Okabe and Ito, which colour-blind readers can tell apart.
var palette = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{230, 159, 0, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{213, 94, 0, 255},
	color.RGBA{204, 121, 167, 255}, color.RGBA{86, 180, 233, 255}, color.RGBA{0, 0, 0, 255}, color.RGBA{240, 228, 66, 255},
}

// overall are the rows of all functions together.
func overall(r *Result) (rows []Row, names []string) {
	for _, row := range r.Rows {
		if row.Function == "all" {
			rows, names = append(rows, row), append(names, row.Policy)
		}
	}
	return rows, names
}

func meanPlot(r *Result) (*plot.Plot, error) {
	rows, names := overall(r)
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = "scenario "+r.Scenario, "mean time from call to answer, ms"
	values := make(plotter.Values, len(rows))
	bars := points{make(plotter.XYs, len(rows)), make(plotter.YErrors, len(rows))}
	for i, row := range rows {
		values[i] = row.MeanMs
		bars.XYs[i] = plotter.XY{X: float64(i), Y: row.MeanMs}
		bars.YErrors[i].Low, bars.YErrors[i].High = row.MeanCI, row.MeanCI
	}
	c, err := plotter.NewBarChart(values, vg.Points(24))
	if err != nil {
		return nil, err
	}
	c.Color = palette[0]
	e, err := plotter.NewYErrorBars(bars)
	if err != nil {
		return nil, err
	}
	p.Add(c, e)
	p.NominalX(names...)
	p.Y.Min = 0
	return p, nil
}

// points are bars' ends with their errors.
type points struct {
	plotter.XYs
	plotter.YErrors
}

func distributionPlot(r *Result) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "scenario "+r.Scenario, "time from call to answer, ms", "share of calls above"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top = true
	for i := range r.curves {
		c := &r.curves[i]
		var xy plotter.XYs
		for k, x := range c.Ms {
			if x > 0 { // a scale of logarithms has no place for it
				xy = append(xy, plotter.XY{X: x, Y: above(k)})
			}
		}
		if err := addLine(p, i, c.Policy, xy); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// addLine adds the i-th line, if it has any points.
func addLine(p *plot.Plot, i int, name string, xy plotter.XYs) error {
	if len(xy) == 0 {
		return nil
	}
	l, err := plotter.NewLine(xy)
	if err != nil {
		return err
	}
	l.Color, l.Width = palette[i%len(palette)], vg.Points(1.5)
	l.Dashes = dashes[i/len(palette)%len(dashes)]
	p.Add(l)
	p.Legend.Add(name, l)
	return nil
}

// throughputFigure is the name of a family's figure on the page about throughput, without its ending.
func throughputFigure(family string) string { return throughputPage + "-" + family }

// forestFigure is that of the page about the forest.
const forestFigure = forestPage + "-ratios"

// PlotTopics draws the figures of the pages that look at the cells of several experiments, as SVG: for each workload what the slowest
// hundredth takes at each load, under each policy, and what the forest is worth. create opens a file of the given name.
func PlotTopics(p *Plan, all []Ran, create func(name string) (io.WriteCloser, error)) error {
	const width = 24 // cm
	for _, c := range p.capacities(all) {
		f := plot.New()
		f.Title.Text, f.X.Label.Text, f.Y.Label.Text = c.family, "load", "p99 of the time from call to answer, ms"
		f.Y.Scale, f.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		f.Legend.Top, f.Legend.Left = true, true
		for k, r := range c.reaches {
			var xy plotter.XYs
			for _, x := range c.cells {
				if y := x.mean(k, p99Ms); y > 0 { // a scale of logarithms has no place for it
					xy = append(xy, plotter.XY{X: x.Load, Y: y})
				}
			}
			if err := addLine(f, k, r.policy, xy); err != nil {
				return fmt.Errorf("plot %s: %w", throughputFigure(c.family), err)
			}
		}
		if c.limit > 0 {
			limit := plotter.XYs{{X: c.cells[0].Load, Y: c.limit}, {X: c.cells[len(c.cells)-1].Load, Y: c.limit}}
			if err := addLine(f, len(c.reaches), "limit", limit); err != nil {
				return fmt.Errorf("plot %s: %w", throughputFigure(c.family), err)
			}
		}
		if err := save(f, width, create, throughputFigure(c.family), PlotFormats[0]); err != nil {
			return fmt.Errorf("plot %s: %w", throughputFigure(c.family), err)
		}
	}
	f := plot.New()
	f.X.Label.Text, f.Y.Label.Text = "load", "mean time over that of averages, or of the oracle"
	f.Legend.Top, f.Legend.Left = true, true
	drawn := 0
	for _, family := range forestFamilies {
		for _, over := range []string{"averages", "oracle"} {
			var xy plotter.XYs
			for _, c := range cells(all, family, 0, forestLoad) {
				if r, ok := c.find(over, meanMs); ok {
					xy = append(xy, plotter.XY{X: c.Load, Y: r.Mean})
				}
			}
			if err := addLine(f, drawn, family+", over "+over, xy); err != nil {
				return fmt.Errorf("plot %s: %w", forestFigure, err)
			}
			drawn++
		}
	}
	if err := save(f, width, create, forestFigure, PlotFormats[0]); err != nil {
		return fmt.Errorf("plot %s: %w", forestFigure, err)
	}
	return nil
}

var dashes = [][]vg.Length{nil, {vg.Points(4), vg.Points(2)}, {vg.Points(1), vg.Points(2)}}

func countsPlot(r *Result) (*plot.Plot, error) {
	rows, names := overall(r)
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = "scenario "+r.Scenario, "share, %"
	cold, missed := make(plotter.Values, len(rows)), make(plotter.Values, len(rows))
	for i, row := range rows {
		cold[i] = 100 * float64(row.ColdStarts) / float64(max(row.Answered, 1))
		missed[i] = 100 * row.MissShare
	}
	const width = 14
	for i, set := range []struct {
		name   string
		values plotter.Values
	}{{"cold starts, of calls answered", cold}, {"misses, of calls with a deadline or refused", missed}} {
		c, err := plotter.NewBarChart(set.values, vg.Points(width))
		if err != nil {
			return nil, err
		}
		c.Color, c.LineStyle = palette[i+1], draw.LineStyle{}
		c.Offset = vg.Points(width * (float64(i) - .5))
		p.Add(c)
		p.Legend.Add(set.name, c)
	}
	p.Legend.Top = true
	p.NominalX(names...)
	p.Y.Min, p.Y.Max = 0, 1.25*p.Y.Max // room for the legend
	return p, nil
}
