/** What the page says, in the two languages, and which of them it speaks. */

const TEXTS = {
  en: {
    title: "Tidewing Pay support (sample)", otherLanguage: "中文", newConversation: "New conversation",
    disclaimer: "Answers are generated. Please check figures in the cited article.", conversation: "Conversation",
    welcome: "How can we help?", example1: "How long do I have to request a refund?",
    example2: "Why was my card payment declined?", example3: "What should I cook for dinner tonight?",
    question: "Your question (Enter sends, Shift+Enter: new line)", send: "Send", stop: "Stop", stopped: "Stopped",
    connecting: "Connecting…", ready: "Ready", starting: "Starting up…", offline: "Not reachable, trying again…",
    grounded: "From our help centre", quoted: "Quoted from our help centre", handoff: "A person can help",
    adapter: "No article found: general answer, please verify", clarify: "We need one more detail",
    refuse: "We cannot help with this here", unsupported: "Not confirmed by our articles:",
    failed: "We could not answer.", retry: "Try again", cut: "The answer was cut off.",
    unreachable: "The service cannot be reached. Please check your connection.",
    keyNeeded: "A key is needed. Please open this page with the whole link that you were given.",
    keyRefused: "Your key was not accepted. Please ask for a new link.",
    busy: "Many people are asking right now. We will try again by ourselves.", inSeconds: "Seconds left:",
    tooMany: "Too many questions for now. Please come back later.",
    article: "Help centre article", close: "Close", loading: "Loading…", noArticle: "This article cannot be opened.",
    helpful: "Helpful", unhelpful: "Not helpful", whatWasIt: "What was the matter?", wrong: "Wrong",
    incomplete: "Incomplete", unclear: "Unclear", other: "Something else",
    correction: "What would be right? No card numbers, please. (optional)", sendFeedback: "Send feedback",
    thanks: "Thank you for your feedback.", change: "Change", withdrawn: "Your feedback was withdrawn.",
    notSent: "Your feedback was not sent.",
  },
  zh: {
    title: "潮翼支付客服（示例）", otherLanguage: "English", newConversation: "新对话", conversation: "对话",
    disclaimer: "回答由系统生成，涉及数字请以所引文章为准。", welcome: "有什么可以帮您？",
    example1: "多久之内可以申请退款？", example2: "为什么我的银行卡付款被拒？", example3: "今天晚饭做什么好？",
    question: "您的问题（Enter 发送，Shift+Enter 换行）", send: "发送", stop: "停止", stopped: "已停止",
    connecting: "正在连接…", ready: "已就绪", starting: "正在启动…", offline: "暂时无法连接，正在重试…",
    grounded: "来自帮助中心", quoted: "帮助中心原文", adapter: "未找到相关文章：一般性回答，请核实",
    clarify: "请补充信息", refuse: "此问题无法在这里处理", handoff: "转人工", unsupported: "未在帮助中心文章中得到证实：",
    failed: "未能回答。", retry: "重试", cut: "回答中断了。", unreachable: "无法连接服务，请检查网络。",
    keyNeeded: "需要密钥。请使用您收到的完整链接打开本页面。", keyRefused: "您的密钥未被接受，请索取新的链接。",
    busy: "当前咨询人数较多，系统将自动重试。", inSeconds: "剩余秒数：", tooMany: "提问次数过多，请稍后再来。",
    article: "帮助中心文章", close: "关闭", loading: "正在加载…", noArticle: "暂时无法打开这篇文章。",
    helpful: "有帮助", unhelpful: "没有帮助", whatWasIt: "问题出在哪里？", wrong: "有误", incomplete: "不完整",
    unclear: "不清楚", other: "其他", correction: "正确的内容是什么？请勿填写卡号。（选填）", sendFeedback: "提交反馈",
    thanks: "感谢您的反馈。", change: "修改", withdrawn: "您的反馈已撤回。", notSent: "反馈未能提交。",
  },
};

let memory = {};
try { memory = localStorage; } catch { /* blocked: the choice lasts for this visit */ }
const wished = [memory.language, new URLSearchParams(location.search).get("lang"), navigator.language];
export let language = wished.find(Boolean).startsWith("zh") ? "zh" : "en";

export const text = (key) => TEXTS[language][key];

export function switchLanguage() {
  memory.language = language = language === "zh" ? "en" : "zh";
}

/** The language that `content` is written in, for fonts and screen readers. */
export const languageOf = (content) => (/\p{Script=Han}/u.test(content) ? "zh" : "en");
