"""A file system of one's own: --file-system=word_folder:WordFolder --file-system-arg=words=apple,pear."""

import stat

from ringblk import Attributes


class WordFolder:
    """A dictionary as a folder: each word is a file, which says how long it is."""

    def __init__(self, words: str) -> None:
        self.texts = {word: f"{word} has {len(word)} letters\n".encode() for word in words.split(",")}
        self.inodes = {word: inode for inode, word in enumerate(self.texts, start=2)}  # 1 is the folder

    def lookup(self, parent: int, name: str) -> Attributes:
        if name not in self.inodes:
            raise FileNotFoundError(name)
        return self.getattr(self.inodes[name])

    def getattr(self, inode: int) -> Attributes:
        if inode == 1:
            return Attributes(inode, stat.S_IFDIR | 0o755, nlink=2)
        return Attributes(inode, stat.S_IFREG | 0o444, size=len(self.text(inode)))

    def readdir(self, inode: int) -> list[str]:
        return list(self.texts)

    def read(self, inode: int, offset: int, size: int) -> bytes:
        return self.text(inode)[offset : offset + size]

    def text(self, inode: int) -> bytes:
        return list(self.texts.values())[inode - 2]
