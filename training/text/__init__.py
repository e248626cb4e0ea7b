"""From files to batches of token ids.

files      the files of a corpus, and what a folder holds besides
hub        data sets and tokenizers of Hugging Face's
fetch      copies of texts in object stores
unpack     decompression, with the end of the data checked
read       documents: pieces of text, from every kind of file
split      which documents are held out
tokenizer  bytes, SentencePiece, tokenizer.json
bpe        training of a SentencePiece tokenizer
shards     token ids in files, checked when they are opened
write      documents to shards
given      folders of shards that are given as a corpus
prepare    the text of a run, from the cache or written to it
batches    sequences of the packed text, for training and evaluation
interrupt  work that Ctrl-C ends at once
"""
