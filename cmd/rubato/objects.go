package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/rubato-faas/rubato/client"
)

// transfer shows the progress of an upload or download on a terminal, and nothing elsewhere.
type transfer struct {
	p   *mpb.Progress
	bar *mpb.Bar
}

func newTransfer(w io.Writer, what string, size int64) *transfer {
	if !isTerminal(w) || size <= 0 {
		return &transfer{}
	}
	p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	return &transfer{p, p.AddBar(size, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))}
}

func (t *transfer) reader(r io.Reader) io.Reader {
	if t.bar == nil {
		return r
	}
	t.bar.SetCurrent(0)
	return t.bar.ProxyReader(r)
}

func (t *transfer) done() {
	if t.bar != nil {
		t.bar.Abort(true)
		t.p.Wait()
	}
}

func newPut(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "put KEY FILE", Short: "Store an input object", Args: cobra.ExactArgs(2),
		Long:    "put stores a file under a key. Objects are immutable: the same content again is fine, other content is refused.",
		Example: "  rubato put books/moby.txt moby.txt",
		RunE: func(cmd *cobra.Command, a []string) error {
			st, err := os.Stat(a[1])
			if err != nil {
				return fmt.Errorf("read file: %w", err)
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				bar := newTransfer(cmd.ErrOrStderr(), "uploading "+a[0], st.Size())
				defer bar.done()
				o, err := c.Put(ctx, a[0], st.Size(), func() (io.Reader, error) {
					f, err := os.Open(a[1])
					if err != nil {
						return nil, err
					}
					return bar.reader(f), nil
				})
				if err != nil {
					return err
				}
				return g.show(cmd, o, "KEY\tSIZE\tDIGEST", func(row func(...any)) { row(o.Key, size(o.Bytes), short(o.Digest)) })
			})
		},
	}
}

func newGet(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "get KEY [FILE]", Short: "Read an object, to a file or standard output", Args: cobra.RangeArgs(1, 2), Example: "  rubato get books/moby.txt > moby.txt",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) (err error) {
				body, n, err := c.Get(ctx, a[0])
				if err != nil {
					return err
				}
				defer body.Close()
				w := cmd.OutOrStdout()
				if len(a) == 2 {
					f, cerr := os.Create(a[1])
					if cerr != nil {
						return cerr
					}
					defer func() { err = errors.Join(err, f.Close()) }()
					w = f
				}
				bar := newTransfer(cmd.ErrOrStderr(), "reading "+a[0], n)
				defer bar.done()
				got, err := io.Copy(w, bar.reader(body))
				if err == nil && n >= 0 && got != n {
					err = fmt.Errorf("object %s: %d of %d bytes came", a[0], got, n)
				}
				return err
			})
		},
	}
}

func newObjects(g *globals) *cobra.Command {
	limit := 1000
	cmd := &cobra.Command{
		Use: "objects [PREFIX]", Short: "List input objects", Args: cobra.MaximumNArgs(1), Example: "  rubato objects books/",
		RunE: func(cmd *cobra.Command, a []string) error {
			prefix := ""
			if len(a) > 0 {
				prefix = a[0]
			}
			return g.within(cmd, func(ctx context.Context, c *client.Client) error {
				objs, err := c.Objects(ctx, prefix, limit)
				if err != nil {
					return err
				}
				return g.show(cmd, objs, "KEY\tSIZE\tDIGEST", func(row func(...any)) {
					for _, o := range objs {
						row(o.Key, size(o.Bytes), short(o.Digest))
					}
				})
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "objects to list at most")
	return cmd
}

func newRemove(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY", Short: "Delete an input object", Args: cobra.ExactArgs(1), Example: "  rubato rm books/moby.txt",
		RunE: func(cmd *cobra.Command, a []string) error {
			return g.within(cmd, func(ctx context.Context, c *client.Client) error { return c.Remove(ctx, a[0]) })
		},
	}
}
