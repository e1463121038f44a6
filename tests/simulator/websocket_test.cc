#include "simulator/websocket.h"

#include <gtest/gtest.h>

namespace shardd::simulator::websocket {
namespace {

// A client's frame, masked.
std::string Frame(uint8_t first, std::string_view payload) {
  const char mask[4] = {1, 2, 3, 4};
  std::string frame;
  frame += static_cast<char>(first);
  if (payload.size() < 126) {
    frame += static_cast<char>(0x80 | payload.size());
  } else {
    frame += static_cast<char>(0x80 | 126);
    frame += static_cast<char>(payload.size() >> 8);
    frame += static_cast<char>(payload.size());
  }
  frame.append(mask, 4);
  for (size_t i = 0; i < payload.size(); ++i) frame += static_cast<char>(payload[i] ^ mask[i % 4]);
  return frame;
}

TEST(WebSocketTest, AcceptKeyIsTheOneOfTheRfc) {
  EXPECT_EQ(AcceptKey("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

TEST(WebSocketTest, FramesCarryEachSizeOfLength) {
  std::string out;
  AppendMessage(Opcode::kText, std::string(125, 'x'), 1, out);
  EXPECT_EQ(out.substr(0, 2), std::string("\x81\x7D"));
  out.clear();
  AppendMessage(Opcode::kBinary, std::string(126, 'x'), 1, out);
  EXPECT_EQ(out.substr(0, 4), std::string("\x82\x7E\x00\x7E", 4));
  out.clear();
  AppendMessage(Opcode::kBinary, std::string(65536, 'x'), 1, out);
  EXPECT_EQ(out.substr(0, 10), std::string("\x82\x7F\0\0\0\0\0\1\0\0", 10));
}

TEST(WebSocketTest, FragmentsEndWithTheFinalBit) {
  std::string out;
  AppendMessage(Opcode::kText, "abcde", 3, out);
  EXPECT_EQ(out, std::string("\x01\x01"
                             "a\x00\x02"
                             "bc\x80\x02"
                             "de",
                             11));
}

TEST(WebSocketTest, ACloseFrameMayHaveNoCode) {
  std::string out;
  AppendClose(0, "", out);
  EXPECT_EQ(out, std::string("\x88\x00", 2));
  out.clear();
  AppendClose(4000, "no", out);
  EXPECT_EQ(out, std::string("\x88\x04\x0F\xA0no", 6));
}

TEST(WebSocketTest, DecodesBytesInAnyPieces) {
  const std::string bytes = Frame(0x01, "one ") + Frame(0x89, "ping") + Frame(0x80, "two") +
                            Frame(0x82, std::string(300, 'z'));
  Decoder decoder(4096);
  std::vector<Message> messages;
  for (const char byte : bytes) {
    decoder.Feed(&byte, 1);
    Message message;
    while (decoder.Next(message) == Decoder::Result::kMessage) messages.push_back(message);
  }
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].payload, "ping");
  EXPECT_EQ(messages[1].payload, "one two");
  EXPECT_EQ(messages[2].payload, std::string(300, 'z'));
}

TEST(WebSocketTest, PassesOverWhatIsTooLarge) {
  Decoder decoder(10);
  const std::string bytes = Frame(0x81, std::string(200, 'x')) + Frame(0x81, "next");
  decoder.Feed(bytes.data(), 50);
  Message message;
  EXPECT_EQ(decoder.Next(message), Decoder::Result::kTooLarge);
  EXPECT_EQ(decoder.Next(message), Decoder::Result::kNeedMore);
  decoder.Feed(bytes.data() + 50, bytes.size() - 50);
  ASSERT_EQ(decoder.Next(message), Decoder::Result::kMessage);
  EXPECT_EQ(message.payload, "next");
}

TEST(WebSocketTest, RefusesWhatNoClientMaySend) {
  const auto result_of = [](std::string_view bytes) {
    Decoder decoder(4096);
    decoder.Feed(bytes.data(), bytes.size());
    Message message;
    return decoder.Next(message);
  };
  EXPECT_EQ(result_of("\x81\x01x"), Decoder::Result::kProtocolError) << "not masked";
  EXPECT_EQ(result_of(Frame(0xC1, "x")), Decoder::Result::kProtocolError) << "reserved bit";
  EXPECT_EQ(result_of(Frame(0x83, "x")), Decoder::Result::kProtocolError) << "opcode 3";
  EXPECT_EQ(result_of(Frame(0x80, "x")), Decoder::Result::kProtocolError) << "continues nothing";
  EXPECT_EQ(result_of(Frame(0x81, std::string(4096, 'x'))), Decoder::Result::kMessage);
  EXPECT_EQ(result_of(Frame(0x81, std::string(4097, 'x'))), Decoder::Result::kTooLarge);
}

}  // namespace
}  // namespace shardd::simulator::websocket
